"""The bits of a forward pass depend on nothing but the sequence: not on its batch, threads, the encoder that a part is
selected of, or the state that the pass goes on from."""

import itertools

import numpy as np
import pytest
from cases import any_family, random_config, random_ragged, random_weights
from examples import examples
from forward_cases import PRECISIONS, Case, cases, expected, isas, seeds
from hypothesis import given
from hypothesis import strategies as st
from rounding import assert_within, int8_scales

from prunetime import _engine
from prunetime.core.arch import TILE, ArchSpec
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.errors import EngineError
from prunetime.inference.engine import Engine


@isas
@examples(25)
@given(case=cases(), data=st.data())
def test_bits_do_not_depend_on_batch_order_or_threads(isa, case, data):
    engine, ragged = case.engine(isa=isa), case.ragged
    together = engine.logits(ragged)
    rows = [[row] for row in range(len(ragged))]
    if case.config.reads_every_token:
        rows = [range(*span) for span in itertools.pairwise(ragged.offsets)]
    for row in range(len(ragged)):
        assert np.array_equal(engine.logits(ragged.select([row])), together[rows[row]])
    order = data.draw(st.permutations(range(len(ragged))))
    assert np.array_equal(engine.logits(ragged.select(order)), together[[i for row in order for i in rows[row]]])
    for threads in (2, 3, 4):
        assert np.array_equal(case.engine(threads, isa).logits(ragged), together)


@isas
@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_chunks(isa, precision):
    """Thousands of tokens: several chunks for each thread, and a sequence longer than a chunk is not special."""
    rng = np.random.default_rng(1)
    config = random_config(rng, layers=2, positions=512, vocabulary=50, **{"heads": 2, "head_dim": 16})
    spec = ArchSpec.full(config.dims).with_layer(0, tokens=0.6)
    ragged = random_ragged(config, rng, [*rng.integers(1, 90, 60), 512, 300, 1, 1])
    case = Case(config, spec, random_weights(config, spec, rng), ragged, PrecisionPlan(MatrixPlan(precision)))
    engine = case.engine(isa=isa)
    alone = np.concatenate([engine.logits(ragged.select([row])) for row in range(len(ragged))])
    for threads in (1, 2, 3, 4):
        assert np.array_equal(case.engine(threads, isa).logits(ragged), alone)


@isas
@pytest.mark.parametrize("precision", PRECISIONS)
@examples(15)
@given(seed=seeds, data=st.data())
def test_a_selected_part_equals_the_encoder_of_only_that_part(isa, precision, seed, data):
    """Bit for bit, but for int8: its weights keep the scales that they have in the whole encoder."""
    rng = np.random.default_rng(seed)
    config = random_config(rng, head_dim=32)
    dims = config.dims
    whole = random_weights(config, ArchSpec.full(dims), rng)
    ragged = random_ragged(config, rng, [1, 9, 30])
    engine = Engine(config, whole, isa=isa, plan=PrecisionPlan(MatrixPlan(precision)))
    everything = engine.logits(ragged)
    for _ in range(2):
        heads = [data.draw(st.integers(0, dims.heads)) for _ in range(dims.layers)]
        ffn = [TILE * data.draw(st.integers(0, dims.ffn // TILE)) for _ in range(dims.layers)]
        spec = ArchSpec.of(dims, heads, ffn)
        for layer in (layer for layer in range(dims.layers) if heads[layer] and config.rows == "pooled"):
            spec = spec.with_layer(layer, tokens=data.draw(st.sampled_from([1.0, 0.5, 0.125])))
        part = first_heads_and_rows(whole, spec, dims.head_dim)
        engine.select(spec)
        found = engine.logits(ragged)
        if precision == "int8":
            scales = {name: int8_scales(array) for name, array in whole.items() if array.ndim == 2}
            case = Case(config, spec, part, ragged, PrecisionPlan(MatrixPlan(precision)))
            assert_within(found, *expected(case, scales=scales, attention=_engine.narrow_attention(isa)))
        else:
            alone = Engine(config, part, isa=isa, plan=PrecisionPlan(MatrixPlan(precision)), spec=spec)
            assert np.array_equal(found, alone.logits(ragged))
    engine.select(ArchSpec.full(dims))
    assert np.array_equal(engine.logits(ragged), everything)


@isas
@pytest.mark.parametrize("precision", PRECISIONS)
@examples(12)
@given(seed=seeds, threads=st.sampled_from([1, 3]), data=st.data())
def test_a_pass_that_goes_on_from_a_state_ends_in_the_same_bits(isa, precision, seed, threads, data):
    rng = np.random.default_rng(seed)
    config = random_config(rng, layers=4, **any_family(rng))
    dims, last = config.dims, config.dims.layers - 1
    ragged = random_ragged(config, rng, rng.integers(1, 30, data.draw(st.sampled_from([3, 36]))))  # 36: two chunks
    weights = random_weights(config, ArchSpec.full(dims), rng)
    engine = Engine(config, weights, threads, isa, plan=PrecisionPlan(MatrixPlan(precision)))
    states = {layer: np.full((ragged.ids.size, dims.hidden), np.nan, np.float32) for layer in range(dims.layers)}
    whole = ArchSpec.full(dims).with_layer(1, heads=data.draw(st.integers(0, dims.heads)))
    engine.select(whole)
    logits = engine.logits(ragged)
    assert np.array_equal(engine.logits_between(ragged, None, states), logits)
    for layer, state in states.items():
        before = state.copy()
        left = {last: np.empty_like(state)}
        assert np.array_equal(engine.logits_between(ragged, (layer, state), left), logits)
        assert np.array_equal(left[last], states[last])
        assert np.array_equal(state, before)
    other = whole.with_layer(last, ffn=0, heads=1)
    engine.select(other)
    expected = engine.logits(ragged)
    for layer, state in states.items():
        assert np.array_equal(engine.logits_between(ragged, (layer, state), {}), expected)


def test_states_that_cannot_be_are_refused():
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=3, rows="pooled")
    dims, ragged = config.dims, random_ragged(config, rng, [5, 2])
    engine = Engine(config, random_weights(config, ArchSpec.full(dims), rng))
    logits, state = engine.logits(ragged), np.zeros((7, dims.hidden), np.float32)
    read_only = state.copy()
    read_only.flags.writeable = False
    for wrong in (state[:6], state[:, 1:], state.astype(np.float64), state.T.copy().T, read_only, None, "state"):
        with pytest.raises(EngineError, match=r"a state is .*float32 \[7, "):
            engine.logits_between(ragged, None, {1: wrong})
    for layer in (-1, 3, 2**31 - 1):
        with pytest.raises(EngineError, match=rf"a state before layer {layer} of 3"):
            engine.logits_between(ragged, (layer, state), {})
    engine.select(ArchSpec.of(dims, [1, 1, 0], [0, 0, 32]))
    with pytest.raises(EngineError, match="no state before layer 2: not all tokens"):
        engine.logits_between(ragged, (2, state), {})
    engine.select(ArchSpec.full(dims).with_layer(1, tokens=0.5))
    with pytest.raises(EngineError, match="no state before layer 2: not all tokens"):
        engine.logits_between(ragged, None, {1: state, 2: state.copy()})
    engine.select(ArchSpec.full(dims))
    assert np.array_equal(engine.logits(ragged), logits)


def first_heads_and_rows(weights, spec, head_dim):
    """The encoder of only the first heads and FFN rows of every layer."""
    part = dict(weights)
    for index, layer in enumerate(spec.layers):
        name, inner = f"layers.{index}", layer.heads * head_dim
        for matrix in ("query", "key", "value"):
            part[f"{name}.{matrix}.weight"] = weights[f"{name}.{matrix}.weight"][:inner]
            part[f"{name}.{matrix}.bias"] = weights[f"{name}.{matrix}.bias"][:inner]
        part[f"{name}.attention_output.weight"] = weights[f"{name}.attention_output.weight"][:, :inner]
        part[f"{name}.ffn_input.weight"] = weights[f"{name}.ffn_input.weight"][: layer.ffn]
        part[f"{name}.ffn_input.bias"] = weights[f"{name}.ffn_input.bias"][: layer.ffn]
        part[f"{name}.ffn_output.weight"] = weights[f"{name}.ffn_output.weight"][:, : layer.ffn]
        gone = [sub for sub, kept in (("attention", layer.heads), ("ffn", layer.ffn)) if not kept]
        matrices = {"attention": ("query", "key", "value"), "ffn": ("ffn_input",)}
        for sub in gone:
            for matrix in (*matrices[sub], f"{sub}_output", f"{sub}_norm"):
                part = {key: array for key, array in part.items() if not key.startswith(f"{name}.{matrix}.")}
    return part


@pytest.mark.parametrize("spec_of", [
    lambda dims: ArchSpec.of(dims, [dims.heads + 1, 0], [0, 0]),
    lambda dims: ArchSpec.of(dims, [0, 0], [0, dims.ffn + 32]),
    lambda dims: ArchSpec.of(dims, [0], [0]),
    lambda dims: ArchSpec.of(dims, [-1, 0], [0, 0]),
    lambda dims: ArchSpec.of(dims, [1, 1], [33, 33]),
])  # fmt: skip
def test_a_part_that_is_not_there_is_refused_and_nothing_changes(spec_of):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, ffn=96)
    ragged = random_ragged(config, rng, [5])
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    engine = Engine(config, weights, plan=PrecisionPlan(MatrixPlan("int8")))
    before = engine.logits(ragged)
    with pytest.raises(EngineError, match=r"select|prefix"):
        engine.select(spec_of(config.dims))
    assert np.array_equal(engine.logits(ragged), before)
