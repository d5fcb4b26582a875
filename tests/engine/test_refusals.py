"""What the engine is given is not taken on faith: a clear error, never a crash and never a wrong answer."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from cases import changed, family_fields, fields_of, random_config, random_ragged, random_weights
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from prunetime import _engine
from prunetime.core.arch import ArchSpec, KeptBlocks
from prunetime.core.config import Pooling
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.errors import EngineError
from prunetime.inference import engine as runtime
from prunetime.inference.engine import Engine, supported_isas
from prunetime.inference.ragged import Ragged

RNG = np.random.default_rng(0)
CONFIG = random_config(RNG, layers=2, heads=2, head_dim=16, ffn=64, vocabulary=50, positions=20, outputs=2)
SPEC = ArchSpec.full(CONFIG.dims).with_layer(0, attention_rows=0).with_layer(1, ffn_rows=8)
WEIGHTS = random_weights(CONFIG, SPEC, RNG)
SETTINGS = runtime.forward_config(CONFIG)
PLAN = runtime.forward_plan(CONFIG, None, PrecisionPlan())
ENGINE = Engine(CONFIG, WEIGHTS)


def with_value(array, value):
    copy = array.copy()
    copy.flat[-1] = value
    return copy


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_every_array_is_needed(name):
    weights = {key: array for key, array in WEIGHTS.items() if key != name}
    if name == "layers.1.query.bias":
        pattern = "layers.1.* is not part of this encoder"
    elif name in ("layers.0.ffn_input.bias", "layers.1.ffn_input.bias"):
        pattern = "ffn.* is not part of this encoder"
    else:
        pattern = f"{name} is missing"
    with pytest.raises(EngineError, match=pattern):
        Engine(CONFIG, weights)


def test_arrays_of_rotary_and_gated_encoders_are_needed_and_checked():
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=2, **family_fields("modernbert"))
    weights = random_weights(config, ArchSpec.full(config.dims).with_layer(1, ffn_rows=32), rng)
    for name, array in weights.items():
        with pytest.raises(EngineError, match=r"layers|final_norm|head|embeddings"):
            Engine(config, {key: value for key, value in weights.items() if key != name})
        with pytest.raises(EngineError, match=r"layers|final_norm|head|embeddings"):
            Engine(config, {**weights, name: array[:-1]})
    for changes, message in (
        ({"rotary_theta": [1e4]}, "rotary positions of 1 layers"),
        ({"rotary_theta": [1e4, 0.5]}, "rotary_theta has 0.5"),
        ({"rotary_window": [0, -1]}, "rotary_window is -1"),
        ({"rotary_window": []}, "differ in length"),
        ({"head_dim": 15}, "head_dim is 15; rotary positions turn pairs"),
        ({"rows": "second"}, "rows is 'second'; it must be first, lasttoken, mean, max, "),
    ):
        with pytest.raises(ValueError, match=message):
            _engine.SharedEncoder(changed(runtime.forward_config(config), **changes), PLAN, weights, 1)
    dropping = runtime.forward_plan(config, ArchSpec.full(config.dims).with_layer(0, tokens=0.5), PrecisionPlan())
    with pytest.raises(ValueError, match="none can be dropped"):
        _engine.SharedEncoder(runtime.forward_config(config), dropping, weights, 1)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_shapes_and_types_of_every_array_are_checked(name):
    array = WEIGHTS[name]
    other = np.float32 if array.dtype == np.int32 else np.int32
    for wrong in (array[:-1], array[..., None], np.concatenate([array, array]), array.astype(other), array[:0]):
        with pytest.raises(EngineError, match=r"layers|embeddings|head"):
            Engine(CONFIG, {**WEIGHTS, name: wrong})
    for wrong in (array.astype(np.float64), array.astype(">f4"), array.astype(object), np.array("x")):
        with pytest.raises(EngineError, match=name):
            Engine(CONFIG, {**WEIGHTS, name: wrong})


@pytest.mark.parametrize("name", sorted(name for name, array in WEIGHTS.items() if array.dtype == np.float32))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(name, bad):
    with pytest.raises(EngineError, match=f"{name} has -?(nan|inf) at {WEIGHTS[name].size - 1}"):
        Engine(CONFIG, {**WEIGHTS, name: with_value(WEIGHTS[name], bad)})


@pytest.mark.parametrize(
    "rows", [[0, 1, 2, 3, 4, 5, 6, 6], [1, 0, 2, 3, 4, 5, 6, 7], [-1, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 32]]
)
def test_rows_ascend_within_hidden(rows):
    with pytest.raises(EngineError, match=r"ffn_rows has -?\d+ at \d; they must ascend, from 0 to 31"):
        Engine(CONFIG, {**WEIGHTS, "layers.1.ffn_rows": np.int32(rows)})


def test_unexpected_arrays_are_refused():
    with pytest.raises(EngineError, match=r"weights: pooler.bias is not part of this encoder"):
        Engine(CONFIG, {**WEIGHTS, "pooler.bias": np.zeros(3, np.float32)})
    with pytest.raises(EngineError, match=r"layers.2.query.weight is not part"):
        Engine(CONFIG, {**WEIGHTS, "layers.2.query.weight": WEIGHTS["layers.1.query.weight"]})


@pytest.mark.parametrize("name", [3, None, "\ud800", ("a",)])
def test_weights_must_have_names(name):
    with pytest.raises(EngineError, match=r"weights: .* is not a name"):
        Engine(CONFIG, {**WEIGHTS, name: WEIGHTS["head.dense.bias"]})


@pytest.mark.parametrize("value", [None, "x", 7, [1, 2]])
def test_weights_must_be_arrays(value):
    with pytest.raises(ValueError, match=r"weights: head.dense.bias is not a C-contiguous"):
        _engine.SharedEncoder(SETTINGS, PLAN, {**WEIGHTS, "head.dense.bias": value}, 1)


def test_strided_weights_are_copied_by_the_engine_and_refused_below_it():
    strided = np.repeat(WEIGHTS["head.dense.weight"], 2, axis=1)[:, ::2]
    batch = random_ragged(CONFIG, RNG, [4])
    weights = {**WEIGHTS, "head.dense.weight": strided}
    assert np.array_equal(Engine(CONFIG, weights).logits(batch), ENGINE.logits(batch))
    with pytest.raises(ValueError, match=r"head.dense.weight is not a C-contiguous"):
        _engine.SharedEncoder(SETTINGS, PLAN, weights, 1)


def misaligned(array):
    """The same numbers, one byte after where their type may lie."""
    moved = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)
    assert not moved.flags.aligned
    return moved


@pytest.mark.parametrize("name", ["head.dense.weight", "layers.1.ffn_rows"])
def test_misaligned_weights_are_copied_by_the_engine_and_refused_below_it(name):
    batch = random_ragged(CONFIG, RNG, [4])
    weights = {**WEIGHTS, name: misaligned(WEIGHTS[name])}
    assert np.array_equal(Engine(CONFIG, weights).logits(batch), ENGINE.logits(batch))
    with pytest.raises(ValueError, match=f"{name} is not aligned"):
        _engine.SharedEncoder(SETTINGS, PLAN, weights, 1)


@pytest.mark.parametrize("place", range(3))
def test_misaligned_batches_are_refused(place):
    parts = [ids(2), ids(2), np.int32([0, 2])]
    parts[place] = misaligned(parts[place])
    with pytest.raises(EngineError, match=f"{('ids', 'types', 'offsets')[place]} are not aligned"):
        ENGINE.logits(Ragged(*parts))


@pytest.mark.parametrize("layers", [SPEC.layers[:1], (*SPEC.layers, SPEC.layers[0])])
def test_a_spec_has_the_layers_of_the_encoder(layers):
    with pytest.raises(EngineError, match=f"a spec of {len(layers)} layers for an encoder of 2"):
        Engine(CONFIG, WEIGHTS, spec=ArchSpec(layers))


@pytest.mark.parametrize("name", ["ffn_output.bias", "ffn_output.block_index", "ffn_input.bias"])
@pytest.mark.parametrize("sparse", [True, False])
def test_blocks_need_all_their_arrays(name, sparse):
    block = KeptBlocks("ffn_output", 32, 32, 1)
    weights = random_weights(CONFIG, ArchSpec.full(CONFIG.dims).with_layer(0, blocks=(block,)), RNG)
    plan = PrecisionPlan(MatrixPlan(sparse=sparse))
    wrong = weights[f"layers.0.{name}"].astype(np.float64)
    with pytest.raises(EngineError, match=f"{name} is "):
        Engine(CONFIG, {**weights, f"layers.0.{name}": wrong}, plan=plan)
    del weights[f"layers.0.{name}"]
    with pytest.raises(EngineError, match=r"is missing|is not part of this encoder"):
        Engine(CONFIG, weights, plan=plan)


@pytest.mark.parametrize("name", sorted(fields_of(SETTINGS)))
def test_every_setting_is_needed_and_checked(name):
    others = {key: value for key, value in fields_of(SETTINGS).items() if key != name}
    for wrong in (others, {**others, name: None}):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            type(SETTINGS)(**wrong)
    for value in (-2, 2**31 - 1, 2**40, 1e300, "x", [1]):
        with pytest.raises(
            ValueError, match=f"config: {name} is|embeddings|weights:|config: .* heads of|config: rotary"
        ):
            _engine.SharedEncoder(changed(SETTINGS, **{name: value}), PLAN, WEIGHTS, 1)


@pytest.mark.parametrize("threads", [0, -1, 257, 2**31 - 1])
def test_threads_are_limited(threads):
    with pytest.raises(EngineError, match=rf"threads is {threads}; it must be from 1 to 256"):
        Engine(CONFIG, WEIGHTS, threads)


def ids(count):
    return np.zeros(count, np.int32)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (([50], [0], [0, 1]), r"ids\[0\] is 50; this encoder has 0 to 49"),
        (([3, -1], [0, 0], [0, 2]), r"ids\[1\] is -1; this encoder has 0 to 49"),
        (([3, 4], [0, 2], [0, 2]), r"types\[1\] is 2; this encoder has 0 to 1"),
        (([3, 4], [0, -5], [0, 2]), r"types\[1\] is -5"),
        (([3, 4], [0], [0, 2]), "2 ids and 1 types"),
        (([3, 4], [0, 0], [0, 1]), "offsets end at 1, but there are 2 ids"),
        (([3, 4], [0, 0], [0, 3]), "offsets end at 3, but there are 2 ids"),
        (([3, 4], [0, 0], [1, 2]), "offsets start at 1"),
        (([3, 4], [0, 0], [0, 0, 2]), "sequence 0 has 0 tokens"),
        (([3, 4], [0, 0], [0, 2, 1]), "sequence 1 has -1 tokens"),
        (([3, 4], [0, 0], [0, 2**31 - 1, -(2**31)]), "sequence 0 has 2147483647 tokens; this encoder takes at most 20"),
        (([3] * 21, [0] * 21, [0, 21]), "sequence 0 has 21 tokens; this encoder takes at most 20"),
        (([], [], []), "offsets are empty"),
        (([3], [0], [0, 1, 1, 1]), "offsets are for 3 sequences, but there are only 1 ids"),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_batches_are_checked(batch, message, threads):
    ragged = Ragged(*(np.array(part, np.int32) for part in batch))
    engine = Engine(CONFIG, WEIGHTS, threads)
    for call in (engine.logits, engine.timed):
        with pytest.raises(EngineError, match=message):
            call(ragged)


@pytest.mark.parametrize("wrong", [None, [1, 2], "ab", 3, np.zeros(2), np.zeros(2, np.int64), np.int32([[0, 1]])])
@pytest.mark.parametrize("place", range(3))
def test_batch_arrays_must_be_rows_of_int32(wrong, place):
    parts = [ids(2), ids(2), np.int32([0, 2])]
    parts[place] = wrong
    with pytest.raises(EngineError, match=f"{('ids', 'types', 'offsets')[place]} is .* must be a one-dimensional"):
        ENGINE.logits(Ragged(*parts))
    parts[place] = np.zeros(4, np.int32)[::2]
    with pytest.raises(EngineError, match="contiguous"):
        ENGINE.logits(Ragged(*parts))


def test_tokens_that_pooling_cannot_leave_out_are_refused():
    ragged = Ragged(ids(3), ids(3), np.int32([0, 2, 3]))
    for skipped, message in (
        ([1], "skipped has 1 numbers for 2 sequences"),
        ([0, -3], r"skipped\[1\] is -3; it must be at least 0"),
    ):
        with pytest.raises(EngineError, match=message):
            ENGINE.logits(replace(ragged, skipped=np.int32(skipped)))
    with pytest.raises(EngineError, match=r"skipped is .* must be a one-dimensional, contiguous NumPy array of int32"):
        ENGINE.logits(replace(ragged, skipped=np.zeros(2)))
    one = replace(ragged, skipped=np.int32([1, 0]))
    dropping = Engine(CONFIG, WEIGHTS, spec=SPEC.with_layer(1, tokens=0.5))
    with pytest.raises(EngineError, match="this encoder drops tokens; pooling cannot leave out the first ones"):
        dropping.logits(one)
    words = random_config(RNG, layers=1, rows="tokens")
    every_row = Engine(words, random_weights(words, ArchSpec.full(words.dims), RNG))
    for call in (every_row.logits, every_row.timed, every_row.kept):
        with pytest.raises(EngineError, match="skipped tokens are left out of pooling, but this encoder pools none"):
            call(one)


HEAD = SETTINGS.head


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (lambda: {"head": []}, "without a head, rows of 32 outputs come out"),
        (lambda: {"head": HEAD[:1]}, "outputs is 2; the head ends with 32"),
        (
            lambda: {"head": [*HEAD, changed(HEAD[1], kind="norm", width=3)]},
            "head.output is a norm of 3 numbers; it reads 2",
        ),
        (
            lambda: {"head": [changed(HEAD[0], kind="norm", eps=2.0), HEAD[1]]},
            "eps of head.dense is 2.0+; it must be",
        ),
        (lambda: {"head": [changed(HEAD[0], width=0), HEAD[1]]}, "width of a head layer is 0; it must be from 1"),
        (lambda: {"head": [changed(HEAD[0], kind="conv"), HEAD[1]]}, "kind is 'conv'; it must be dense or norm"),
        (
            lambda: {"head": [changed(HEAD[0], activation="silu"), HEAD[1]]},
            "activation is 'silu'; it must be identity, tanh, relu or gelu",
        ),
        (lambda: {"head": "dense"}, "head is 'dense'; its type or range is wrong"),
        (lambda: {"head": [3]}, r"head is \[3\]; its type or range is wrong"),
        (lambda: {"rows": "all", "normalize": True}, "normalize scales one row of a sequence, but rows is all"),
    ],
)
def test_heads_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _engine.SharedEncoder(changed(SETTINGS, **changes()), PLAN, WEIGHTS, 1)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_what_overflowed_is_an_error_after_any_pooling(pooling):
    """Also where the embedding is normalised, and the overflow is in a token that is neither the first nor the last."""
    rng = np.random.default_rng(0)
    config = random_config(rng, layers=1, rows="embedding", pooling=pooling, normalize=True, vocabulary=20)
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    weights["embeddings.word.weight"][7] = 3e38
    with pytest.raises(EngineError, match="sequence 1 has the logit"):
        Engine(config, weights).logits(Ragged.of([[1, 2], [1, 7, 2]]))


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.word.weight",
        "layers.1.query.weight",
        "layers.0.ffn_input.weight",
        "layers.1.ffn_output.weight",
        "layers.1.attention_output.weight",
        "head.dense.weight",
        "head.output.weight",
    ],
)
@pytest.mark.parametrize("isa", supported_isas())
def test_numbers_that_overflow_inside_are_an_error(name, isa):
    engine = Engine(CONFIG, {**WEIGHTS, name: np.full_like(WEIGHTS[name], 3e38)}, isa=isa)
    with pytest.raises(EngineError, match=r"sequence \d has the logit -?(nan|inf)"):
        engine.logits(random_ragged(CONFIG, np.random.default_rng(0), [20, 9]))


def test_an_engine_goes_on_after_an_overflow():
    """Nothing of a pass that overflowed is left in its buffers, in the padding least of all."""
    rng = np.random.default_rng(4)
    config = random_config(rng, hidden=40, heads=1, head_dim=24, ffn=40)
    weights = random_weights(config, ArchSpec.full(config.dims), rng)
    weights["embeddings.word.weight"][0] = 3e38
    engine = Engine(config, weights)
    fine = Ragged.of([[1, 2, 3], [4, 5]])
    before = engine.logits(fine)
    with pytest.raises(EngineError, match="overflowed"):
        engine.logits(Ragged.of([[0, 0, 0, 0, 0, 0, 0]]))
    assert np.array_equal(engine.logits(fine), before)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_batches_give_an_answer_or_an_error(data):
    small = st.integers(-3, 60)
    any_int32 = st.one_of(small, st.integers(-(2**31), 2**31 - 1))
    row = st.lists(any_int32, max_size=30).map(lambda values: np.array(values, np.int32))
    junk = st.one_of(
        row, st.none(), st.text(), arrays(st.sampled_from([np.int8, np.int64, np.float32]), array_shapes())
    )
    parts = [data.draw(st.one_of(row, row, junk)) for _ in range(3)]
    try:
        logits = ENGINE.logits(Ragged(*parts))
    except EngineError:
        return
    assert logits.shape == (len(parts[2]) - 1, 2)
    assert np.isfinite(logits).all()


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_weights_and_settings_give_an_encoder_or_an_error(data):
    weights, config = dict(WEIGHTS), fields_of(SETTINGS)
    types = st.sampled_from([np.float32, np.int32, np.float64, np.uint8])
    junk = st.one_of(arrays(types, array_shapes(max_dims=3, max_side=70)), st.none(), st.text())
    for name in data.draw(st.lists(st.sampled_from(sorted(WEIGHTS)), max_size=3)):
        match data.draw(st.sampled_from(["drop", "junk", "shape", "extra"])):
            case "drop":
                weights.pop(name, None)
            case "junk":
                weights[name] = data.draw(junk)
            case "shape":
                shape = data.draw(array_shapes(max_dims=2, max_side=70))
                weights[name] = np.resize(WEIGHTS[name], shape)
            case "extra":
                weights[data.draw(st.text())] = data.draw(junk)
    for name in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=2)):
        config[name] = data.draw(st.one_of(st.integers(-5, 100), st.integers(), st.floats(), st.text(), st.none()))
    try:
        encoder = _engine.SharedEncoder(type(SETTINGS)(**config), PLAN, weights, data.draw(st.integers(-1, 3)))
    except (ValueError, TypeError):
        return
    assert encoder.forward(ids(1), ids(1), np.int32([0, 1])).shape == (1, 2)


def test_an_unknown_isa_is_refused():
    with pytest.raises(EngineError, match=r"isa is 'sse9'; this CPU runs portable"):
        Engine(CONFIG, WEIGHTS, isa="sse9")


def test_an_engine_made_before_a_fork_refuses_to_hang():
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_refusals import *\n"
        "engine = Engine(CONFIG, WEIGHTS, 2); batch = random_ragged(CONFIG, RNG, [4]); engine.logits(batch)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try: engine.logits(batch)\n"
        "    except EngineError as error: os._exit(7 if 'fork' in str(error) else 1)\n"
        "    os._exit(2)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
    )
    here = str(Path(__file__).parent)
    env = {**os.environ, "PYTHONPATH": str(Path(here).parent)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, here], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
