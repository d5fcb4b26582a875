"""The whole forward pass against float64, and that its bits depend on nothing but the sequence."""

import itertools
import math
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
from cases import any_family, random_config, random_head, random_ragged, random_spec, random_weights
from examples import examples
from hypothesis import given
from hypothesis import strategies as st
from reference import Arithmetic, Weights, exactly, reference, reference_logits
from rounding import (
    NARROW_EXP_ERROR,
    U,
    assert_within,
    gamma,
    int8_scales,
    to_bf16,
    to_int8_rows,
    to_int8_weights,
)

from prunetime import _engine
from prunetime._engine import testing
from prunetime.core.arch import TILE, ArchSpec, LayerSpec
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import MatrixPlan, Precision, PrecisionPlan
from prunetime.errors import EngineError
from prunetime.inference.engine import Engine, supported_isas
from prunetime.inference.ragged import Ragged

ISAS = [*supported_isas(), *testing.emulated_isas()]
isas = pytest.mark.parametrize("isa", ISAS)
seeds = st.integers(0, 2**32 - 1)

ODD = {"hidden": 48, "heads": 3, "head_dim": 24, "ffn": 40, "positions": 70}
"""Sizes that are no multiple of anything; heads x head_dim is not hidden."""


PRECISIONS = get_args(Precision)
FLOAT32 = PrecisionPlan()
OF_TOKENS = ("tokens", "token_embeddings")
EMBEDDINGS = ("embedding", "token_embeddings")
HEAD_ROWS = st.sampled_from(["pooled", "embedding", *OF_TOKENS])


@dataclass(frozen=True, repr=False)
class Case:
    """A random encoder and batch, and how it is run."""

    config: EncoderConfig
    spec: ArchSpec
    weights: Weights
    ragged: Ragged
    plan: PrecisionPlan = FLOAT32

    def __repr__(self) -> str:
        return f"Case({self.config}, {self.spec}, lengths {self.ragged.lengths.tolist()}, {self.plan})"

    def engine(self, threads: int = 1, isa: str | None = None) -> Engine:
        return Engine(self.config, self.weights, threads, isa, spec=self.spec, plan=self.plan)


def random_plan(config, rng):
    """Any precision for any matrix."""
    groups = (("query", "key", "value"), ("attention_output",), ("ffn_input",), ("ffn_output",))
    exceptions = []
    for layer, matrices in itertools.product(range(config.dims.layers), groups):
        plan = MatrixPlan(str(rng.choice(PRECISIONS)), sparse=bool(rng.integers(2)))
        exceptions += [(layer, matrix, plan) for matrix in matrices]
    return PrecisionPlan(MatrixPlan(str(rng.choice(PRECISIONS))), tuple(exceptions))


@st.composite
def cases(draw, longest=64, head_rows=HEAD_ROWS):
    """Uneven encoders: no heads, no FFN, pruned output rows, any sizes, blocks, dropped tokens, any precision."""
    rng = np.random.default_rng(draw(seeds))
    config = random_config(rng, **any_family(rng), **(ODD if draw(st.booleans()) else {}))
    rows = draw(head_rows)
    outputs = config.dims.hidden if rows in EMBEDDINGS else config.outputs
    head = random_head(rng) if rows not in OF_TOKENS and draw(st.booleans()) else None
    config = replace(
        config,
        rows=rows,
        outputs=head[-1].width if head else outputs,
        separator=draw(st.sampled_from([None, 3])),
        head=head,
        normalize=rows == "embedding" and draw(st.booleans()),
    )
    can_drop = config.drops_tokens
    tokens = can_drop and draw(st.booleans())
    if draw(st.booleans()):
        spec = random_spec(config, rng, blocks=draw(st.booleans()), tokens=tokens)
    else:
        dims = config.dims
        counts = st.tuples(*(st.integers(0, top) for top in (dims.heads, dims.hidden, dims.ffn, dims.hidden)))
        spec = ArchSpec(tuple(LayerSpec(*draw(counts)) for _ in range(dims.layers)))
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=9))
    plan = draw(
        st.sampled_from(
            [PrecisionPlan(), *(PrecisionPlan(MatrixPlan(p)) for p in PRECISIONS), random_plan(config, rng)]
        )
    )
    ragged = random_ragged(config, rng, lengths)
    if rows not in OF_TOKENS and not any(layer.tokens < 1.0 for layer in spec.layers) and draw(st.booleans()):
        ragged = replace(ragged, skipped=rng.integers(0, 6, len(lengths)).astype(np.int32))
    return Case(config, spec, random_weights(config, spec, rng), ragged, plan)


def as_planned(config, plan, noise=0.0, seed=0, scales=None):
    """x w^T as the plan rounds it, its operands moved at random by a relative `noise` before they are rounded.

    `scales` of int8 weights, by matrix, are those of the rows of `w` where they are not given.
    """
    rng = np.random.default_rng(seed)
    last = next((name for name, layer in reversed(config.head_layers) if layer.kind == "dense"), None)

    def multiply(name, x, w):
        part, _, matrix = name.rpartition(".")
        if part.startswith("layers."):
            precision = plan.of(int(part.split(".")[1]), matrix).precision
        else:  # layers of the head are never as coarse as int8, and the last one is always float32
            precision = "fp32" if name in (last, "embeddings.project") or plan.default.precision == "fp32" else "bf16"
        x = x * (1 + noise * rng.standard_normal(x.shape))
        if precision == "fp32":
            return x @ (w * (1 + noise * rng.standard_normal(w.shape))).T
        if noise and matrix == "ffn_output":  # what GELU may be off by where its results are rounded next
            x = x + 0.5 * np.maximum(2e-6, 2.0**-9 * np.abs(x)) * rng.standard_normal(x.shape)
        if precision == "bf16":
            return to_bf16(x) @ to_bf16(w).T
        scale = None if scales is None else scales[f"{name}.weight"][: len(w)]
        return to_int8_rows(x) @ to_int8_weights(w.astype(np.float32), scale).T

    return multiply


def attend_in_bf16(plan, noise=0.0, seed=0):
    """Attention as a table with products of bf16 computes it where query, key and value are not float32.

    Exponentials, of relative error `NARROW_EXP_ERROR`, are rounded where they are multiplied by values, not in their
    sum.
    """
    rng = np.random.default_rng(seed)

    def attend(layer, q, k, v, bias):
        if plan.of(int(layer.split(".")[1]), "query").precision == "fp32":
            return exactly.attend(layer, q, k, v, bias)
        q, k, v = (to_bf16(x * (1 + noise * rng.standard_normal(x.shape))) for x in (q, k, v))
        scores = q @ k.T / math.sqrt(q.shape[1]) + bias
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        if noise:
            weights *= 1 + NARROW_EXP_ERROR * rng.standard_normal(weights.shape)
        total, rounded = weights.sum(axis=1, keepdims=True), to_bf16(weights)
        return rounded @ v / total, (rounded / total).sum(axis=0)

    return attend


def expected(case: Case, kept=None, scales=None, attention="fp32"):
    """Logits in float64, rounded where the plan rounds, and how far a correct engine may be from them.

    Rounding in a matrix product of inner size k is the same as having moved each weight by a relative gamma(k) at most
    (backward error), and, the roundings being of either sign, by about u sqrt(k) (Higham and Mary, A new approach to
    probabilistic rounding error analysis, 2019). The functions between the products (softmax, GELU within 2e-6,
    LayerNorm) are as accurate. So: measure how much logits move when the operands of every product move at random by
    ten times that. This covers what lies on the edge between two bf16 or two bytes, too: it falls to the other side
    ten times as often as in the engine. Twice that, for what a dozen draws do not show.
    """
    w, spec = case.weights, case.spec

    def logits(noise, seed):
        multiply = as_planned(case.config, case.plan, noise, seed, scales)
        attend = attend_in_bf16(case.plan, noise, seed) if attention == "bf16" else exactly.attend
        return reference_logits(case.config, w, case.ragged, spec, kept, Arithmetic(multiply, attend))

    exact = logits(0.0, 0)
    widest = max(array.shape[-1] for array in w.values() if array.ndim >= 2)
    noise = 10 * math.sqrt(max(widest, case.config.dims.ffn)) * U
    moved = max(np.abs(logits(noise, seed) - exact).max(initial=0.0) for seed in range(12))
    bound = 2 * moved + 1e-9
    if case.config.rows in EMBEDDINGS:  # no product follows the last LayerNorm, whose sums are of `hidden` numbers
        bound += gamma(case.config.dims.hidden) * np.abs(exact).max(initial=0.0)
    return exact, np.full(exact.shape, bound)


def kept_by_sequence(case: Case, engine: Engine):
    """As `Reference.kept`: of the tokens that come into a layer, those that the engine keeps."""
    _, left = engine.kept(case.ragged)
    last = max((i for i, layer in enumerate(case.spec.layers) if layer.has_attention), default=-1)
    pooled_from = last if case.config.reads_one_token else case.config.dims.layers
    before = np.ones(left.shape[1], bool)
    kept = []
    for layer, now in enumerate(left):
        spans = itertools.pairwise(case.ragged.offsets)
        if layer >= pooled_from:  # one token of each sequence is computed from here on, and only it matters
            now = before
        kept.append([np.flatnonzero(now[start:end][before[start:end]]) for start, end in spans])
        before = now
    return kept


def check_every_isa(case: Case):
    results = {}
    for isa in ISAS:
        engine = case.engine(isa=isa)
        kept = kept_by_sequence(case, engine)
        attention = "fp32" if case.config.rotary else _engine.narrow_attention(isa)
        key = (attention, *(tuple(tokens) for layer in kept for tokens in layer))
        if key not in results:
            results[key] = expected(case, kept, attention=attention)
        assert_within(engine.logits(case.ragged), *results[key])


@examples(60)
@given(case=cases())
def test_forward_equals_float64(case):
    check_every_isa(case)


LENGTHS = ([1], [512], [511, 1, 33], [2] * 300, [100] * 11)
GATED = (*itertools.product(["fp32"], LENGTHS), ("bf16", LENGTHS[1]), ("bf16", LENGTHS[4]), ("int8", LENGTHS[2]))
"""Every batch in fp32, long or many sequences in the others; their other batches are slow, and like these."""


@pytest.mark.parametrize(
    ("precision", "lengths"),
    [
        pytest.param(*case, marks=() if case in GATED else pytest.mark.full)
        for case in itertools.product(PRECISIONS, LENGTHS)
    ],
)
def test_forward_of_long_and_many_sequences(precision, lengths):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, positions=512, vocabulary=50)
    spec = random_spec(config, rng, blocks=True, tokens=True)
    ragged = random_ragged(config, rng, lengths)
    check_every_isa(Case(config, spec, random_weights(config, spec, rng), ragged, PrecisionPlan(MatrixPlan(precision))))


@pytest.mark.parametrize("wrong", ["ffn_output", "attention_output", "query", "head.dense"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_forgotten_weight_columns_are_outside_the_bound(wrong, precision):
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2)
    spec = ArchSpec.full(config.dims)
    weights = random_weights(config, spec, rng)
    case = Case(config, spec, weights, random_ragged(config, rng, [5, 30]), PrecisionPlan(MatrixPlan(precision)))
    name = next(name for name in weights if name.endswith(f"{wrong}.weight"))
    faulty = {**weights, name: weights[name].copy()}
    faulty[name][:, -{"fp32": 1, "bf16": 8, "int8": 24}[precision] :] = 0
    engine = replace(case, weights=faulty).engine()
    right = expected(case, attention=_engine.narrow_attention(engine.isa))
    with pytest.raises(AssertionError, match="times the bound"):
        assert_within(engine.logits(case.ragged), *right)


@isas
@examples(60)
@given(case=cases(head_rows=st.just("pooled")))
def test_the_most_attended_tokens_are_kept(isa, case):
    case = replace(case, plan=PrecisionPlan())
    kept = kept_by_sequence(case, case.engine(isa=isa))
    right = reference(case.config, case.weights, case.ragged, case.spec, kept)
    last = max((i for i, layer in enumerate(case.spec.layers) if layer.has_attention), default=-1)
    for layer in range(last):
        for row in range(len(case.ragged)):
            assert_most_attended(right.received[layer][row], kept[layer][row], case, layer)


def assert_most_attended(score, kept, case, layer):
    """`kept` are as many as the spec says, the first token among them, and nothing left out was attended to more."""
    assert len(kept) == case.spec.layers[layer].tokens_kept(len(score))
    assert kept[0] == 0
    left_out = np.setdiff1d(np.arange(len(score)), kept)
    if len(left_out):
        assert score[left_out].max() <= score[kept].min() + 1e-5 * len(score)


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


@isas
def test_an_encoder_with_every_layer_gone_runs(isa):
    rng = np.random.default_rng(2)
    config = random_config(rng)
    weights = random_weights(config, ArchSpec.floor(config.dims), rng)
    ragged = random_ragged(config, rng, [3, 7])
    np.testing.assert_allclose(
        Engine(config, weights, isa=isa).logits(ragged), reference_logits(config, weights, ragged), atol=2e-6
    )


def test_no_sequences_give_no_logits():
    rng = np.random.default_rng(3)
    config = random_config(rng)
    for threads in (1, 2):
        engine = Engine(config, random_weights(config, ArchSpec.full(config.dims), rng), threads)
        assert engine.logits(Ragged.of([])).shape == (0, config.outputs)
