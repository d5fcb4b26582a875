"""Fuzzes the engine through its binding, guided by what its code reaches: `make fuzz SECONDS=60`.

Every input stands for a valid encoder and valid batches with a few changes to them: the first bytes say which, and no
bytes mean no change. What comes back must be an answer that is finite and the same alone as in company, or one of our
errors; anything else is a finding, as is what the sanitizers see. libFuzzer then names the file that holds the input;
`python tests/sanitizers.py fuzz tests/fuzz_engine.py FILE` repeats it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import atheris
import numpy as np
from cases import POOLINGS, fields_of, random_config, random_head, random_spec, random_weights
from numpy.typing import NDArray
from reference import Weights

from prunetime import _engine
from prunetime.core.arch import ArchSpec
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.inference import engine as runtime
from prunetime.inference.engine import Engine

CORPUS = Path(__file__).resolve().parent.parent / "build" / "fuzz" / "corpus"
SEEDS = 256
LONGEST = 96
"""Bytes of an input; a change takes some six."""

Array = NDArray[Any]
ISAS = (*_engine.supported_isas(), *_engine.testing.emulated_isas())
PRECISIONS: tuple[Any, ...] = ("fp32", "bf16", "int8")
INTEGERS = (-1, 0, 1, 2, 3, 31, 32, 33, 2**20, 2**20 + 1, 2**31 - 1, -(2**31), 2**31, 2**40, 2**63 - 1, 2**64)
INT32S = tuple(i for i in INTEGERS if -(2**31) <= i < 2**31)
FLOATS = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e19, 1e-45, -0.0)
DTYPES = ("<f4", "<i4", "<f8", "<i8", "<f2", "u1", "?", ">f4", ">i4", "O", "S4", "V4")
JUNK = (
    None,
    "x",
    b"abcd",
    7,
    1.5,
    [1, 2],
    (),
    {},
    object(),
    memoryview(bytes(8)),
    np.float32(1),
    np.ma.masked_array([1]),
)


class Choices(atheris.FuzzedDataProvider):
    """The input's bytes as choices. Where they end, every choice is the first one."""

    def index(self, count: int) -> int:
        return self.ConsumeIntInRange(0, count - 1)

    def of(self, options: Any) -> Any:
        return options[self.index(len(options))]


@dataclass(frozen=True)
class Case:
    """A small encoder that is in order; its arrays are read-only."""

    config: EncoderConfig
    spec: ArchSpec
    weights: Weights


@cache
def case_of(seed: int) -> Case:
    """Every other one has odd sizes; of the rest, some have blocks, dropped tokens or logits for every token. Some pool
    in any way and have a head of several layers."""
    rng = np.random.default_rng(seed)
    sizes = {"hidden": 24, "heads": 3, "head_dim": 12, "ffn": 40} if seed % 2 else {"heads": 2, "ffn": 96}
    rows = "tokens" if seed % 8 == 7 else "pooled"
    head: dict[str, Any] = {}
    if seed % 4 == 1:
        rows = str(rng.choice(["pooled", "embedding"]))
        head = {"pooling": str(rng.choice(POOLINGS)), "head": random_head(rng), "normalize": rows == "embedding"}
    sizes |= {"vocabulary": 40, "positions": 24}
    config = random_config(rng, layers=1 + seed % 3, separator=3, rows=rows, **sizes, **head)
    spec = random_spec(config, rng, blocks=seed % 4 >= 2, tokens=config.drops_tokens and seed % 3 > 0)
    weights = random_weights(config, spec, rng)
    for array in weights.values():
        array.flags.writeable = False
    return Case(config, spec, weights)


def cut(array: Array, choices: Choices) -> Array:
    return array[: choices.index(len(array) + 1)] if array.ndim else array


def grow(array: Array, choices: Choices) -> Array:
    axis = choices.index(max(array.ndim, 1))
    return np.repeat(array, choices.of((2, 3)), axis=axis) if array.ndim else array


def reshape(array: Array, choices: Choices) -> Array:
    shapes = ((-1,), (*array.shape, 1), (1, *array.shape), array.shape[::-1], (*array.shape[:-1], 1, array.size and -1))
    shape = choices.of(shapes)
    return array.reshape(shape) if np.prod(shape) in (array.size, -array.size) else array.reshape(-1)


def retype(array: Array, choices: Choices) -> Array:
    dtype = np.dtype(choices.of(DTYPES))
    return np.zeros(array.shape, dtype) if array.dtype.kind == "O" or dtype.kind in "SVO" else array.astype(dtype)


def set_value(array: Array, choices: Choices) -> Array:
    if array.size == 0 or array.dtype.kind not in "fi":
        return array
    copy = array.copy()
    value = choices.of(INT32S if array.dtype.kind == "i" else FLOATS)
    copy.flat[choices.index(array.size)] = value
    return copy


def fill(array: Array, choices: Choices) -> Array:
    return np.full_like(array, choices.of(FLOATS)) if array.dtype.kind == "f" else np.full_like(array, choices.index(9))


def lay_out(array: Array, choices: Choices) -> Array:
    """The same numbers elsewhere in memory: strided, backwards, by columns, or not aligned."""
    match choices.index(4):
        case 0:
            return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
        case 1:
            return array[::-1].copy()[::-1] if array.ndim else array
        case 2:
            return np.asfortranarray(array)
        case _:
            moved = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:]
            return moved.view(array.dtype).reshape(array.shape) if array.size and array.dtype.kind != "O" else array


ARRAY_CHANGES: tuple[Callable[[Array, Choices], Array], ...] = (set_value, cut, grow, reshape, retype, fill, lay_out)


def changed(array: Array, choices: Choices) -> Any:
    change = choices.index(len(ARRAY_CHANGES) + 1)
    return choices.of(JUNK) if change == len(ARRAY_CHANGES) else ARRAY_CHANGES[change](array, choices)


def change_weights(weights: dict[Any, Any], choices: Choices) -> None:
    """One array is changed, dropped, put under another name or in another's place."""
    name = choices.of(sorted(weights, key=str))
    match choices.index(5):
        case 0 | 1:
            if isinstance(weights[name], np.ndarray):
                weights[name] = changed(weights[name], choices)
        case 2:
            weights.pop(name)
        case 3:
            weights[choices.of((f"{name}s", "layers.0.ffn_rows", "layers.9.query.weight", "", 3, None))] = weights[name]
        case 4:
            weights[name] = weights[choices.of(sorted(weights, key=str))]


def change_entry(entries: dict[str, Any], choices: Choices) -> None:
    """One entry of a dictionary has another value, or is gone."""
    name = choices.of(sorted(entries))
    match choices.index(3):
        case 0:
            entries[name] = choices.of((*INTEGERS, *FLOATS, True))
        case 1:
            entries[name] = choices.of(JUNK)
        case _:
            entries.pop(name)


def change_plan(plan: dict[str, Any], choices: Choices) -> None:
    """As the binding takes it: precisions by matrix, those that run dense, and the fraction of the tokens that a layer
    keeps."""
    match choices.index(4):
        case 0:
            plan["precision"][choices.of(sorted(plan["precision"]))] = choices.of((*PRECISIONS, "fp64", "", None))
        case 1:
            plan["tokens"][choices.index(len(plan["tokens"]))] = choices.of((0.5, 1e-300, 1, 0, *FLOATS, "1", None))
        case 2:
            plan["tokens"] = plan["tokens"][1:] if choices.ConsumeBool() else [*plan["tokens"], 1.0]
        case _:
            change_entry(plan, choices)


def changed_spec(spec: ArchSpec, choices: Choices) -> ArchSpec:
    layers = list(spec.layers)
    place = choices.index(len(layers))
    match choices.index(3):
        case 0:
            count = choices.of(("heads", "attention_rows", "ffn", "ffn_rows", "tokens"))
            layers[place] = replace(layers[place], **{count: choices.of((*INTEGERS, 0.5, *FLOATS, None))})
        case 1:
            layers.pop(place)
        case _:
            layers.append(layers[place])
    return ArchSpec(tuple(layers))


def threads_and_isa(choices: Choices) -> tuple[Any, Any]:
    threads = choices.of((2, 3, 0, -1, 257, 2**40, "2", None)) if choices.index(6) == 5 else 1
    isa = choices.of((*ISAS, "sse9", "", "\0", None)) if choices.ConsumeBool() else ""
    return threads, isa


def encoder_of(case: Case, choices: Choices) -> Any:
    """The binding's encoder of a case with changes, by way of `Engine` or not; raises an error of ours."""
    weights: dict[Any, Any] = dict(case.weights)
    precision = choices.of(PRECISIONS)
    for _ in range(choices.of((0, 0, 1, 1, 2, 3))):
        if weights:
            change_weights(weights, choices)
    threads, isa = threads_and_isa(choices)
    if choices.ConsumeBool():
        spec = changed_spec(case.spec, choices) if choices.index(4) == 3 else case.spec
        plan = PrecisionPlan(MatrixPlan(precision, sparse=choices.ConsumeBool()))
        return Engine(case.config, weights, threads, isa, spec=spec, plan=plan)._encoder
    sparse = choices.ConsumeBool()
    settings = fields_of(runtime.forward_config(case.config))
    plan = fields_of(runtime.forward_plan(case.config, case.spec, PrecisionPlan(MatrixPlan(precision, sparse=sparse))))
    if choices.index(8) == 7:
        change_entry(settings, choices)
    if settings.get("head") and isinstance(settings["head"], list) and choices.index(16) == 15:
        place = choices.index(len(settings["head"]))
        layer = fields_of(settings["head"][place])
        change_entry(layer, choices)
        settings["head"][place] = _engine.HeadLayerConfig(**layer)
    if choices.index(8) == 7:
        change_plan(plan, choices)
    config = _engine.ForwardConfig(**settings)
    return _engine.SharedEncoder(config, _engine.ForwardPlan(**plan), weights, threads, isa)


def select(encoder: Any, choices: Choices) -> None:
    counts = [[layer[0] for layer in encoder.layer_counts], [layer[2] for layer in encoder.layer_counts]]
    tokens = [choices.of((1.0, 1.0, 1.0, 0.5, 0.125, *FLOATS)) for _ in encoder.layer_counts]
    for count in counts:
        for layer in range(len(count)):
            count[layer] = choices.index(count[layer] + 1) if choices.index(8) < 7 else choices.of(INTEGERS)
        if choices.index(16) == 15:
            count.append(0)
    encoder.select(*counts, tokens)


def batch_of(config: EncoderConfig, choices: Choices) -> list[Any]:
    """[ids, types, offsets, skipped]"""
    lengths = [1 + choices.index(config.dims.positions) for _ in range(1 + choices.index(6))]
    ids = np.random.default_rng(choices.index(256)).integers(0, config.dims.vocabulary, sum(lengths)).astype(np.int32)
    batch: list[Any] = [ids, ids % 2, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)]
    batch.append(np.array([choices.index(30) for _ in lengths], np.int32) if choices.index(3) == 2 else None)
    for _ in range(choices.of((0, 0, 1, 2))):
        place = choices.of((2, 0, 1, 3))
        if isinstance(batch[place], np.ndarray):
            batch[place] = changed(batch[place], choices)
    return batch


def check(encoder: Any, config: EncoderConfig, batch: list[Any]) -> None:
    """An answer is finite, the same bits from every entry, and every sequence's is the same bits alone."""
    try:
        logits = encoder.forward(*batch)
    except (ValueError, TypeError):
        return
    ids, types, offsets, skipped = batch
    layers = len(encoder.layer_counts)
    rows = offsets if len(logits) == len(ids) else range(len(offsets))  # of a sequence's logits
    assert len(logits) == rows[-1]
    assert np.isfinite(logits).all()
    for row, (first, end) in enumerate(pairwise(offsets)):
        parts = ids[first:end].copy(), types[first:end].copy(), np.array([0, end - first], np.int32)
        alone = encoder.forward(*parts, None if skipped is None else skipped[row : row + 1].copy())
        assert np.array_equal(alone, logits[rows[row] : rows[row + 1]]), f"sequence {row} alone has other logits"
    timed, nanoseconds = encoder.forward_timed(*batch)
    traced, kept = encoder.forward_kept(*batch)
    assert np.array_equal(timed, logits)
    assert np.array_equal(traced, logits)
    assert nanoseconds.shape == (2 * layers + 2,)
    assert kept.shape == (layers, len(ids))
    if config.pooling == "first" and skipped is None:
        assert kept[:, offsets[:-1]].all(), "a first token was dropped"
    assert all(kept[:, first:end].any(axis=1).all() for first, end in pairwise(offsets)), "no token is left"


def check_between(encoder: Any, config: EncoderConfig, batch: list[Any], choices: Choices) -> None:
    """A pass that goes on from a state that an earlier one left ends in the same bits; wrong arrays are refused."""
    if not isinstance(batch[0], np.ndarray):
        return
    layers = [choices.of((*range(config.dims.layers), *INTEGERS)) for _ in range(2)]
    states = [np.zeros((batch[0].size, config.dims.hidden), np.float32) for _ in layers]
    given = [changed(state, choices) if choices.index(4) == 3 else state for state in states]
    *tokens, skipped = batch
    with suppress(ValueError, TypeError):
        logits = encoder.forward(*batch)
        left = dict(zip(layers, given, strict=True))
        assert np.array_equal(encoder.forward_between(*tokens, 0, None, left, skipped), logits)
        if given[1] is states[1]:
            went_on = encoder.forward_between(*tokens, layers[1], states[1], {}, skipped)
            assert np.array_equal(went_on, logits)
    with suppress(ValueError, TypeError):
        encoder.forward_between(*tokens, layers[0], changed(states[0], choices), {}, skipped)


def test_one_input(data: bytes) -> None:
    choices = Choices(data)
    case = case_of(choices.index(24))
    try:
        encoder = encoder_of(case, choices)
    except (ValueError, TypeError):  # EngineError and InputError are ValueErrors
        return
    for _ in range(1 + choices.index(3)):
        batch = batch_of(case.config, choices)
        check(encoder, case.config, batch)
        check_between(encoder, case.config, batch, choices)
        with suppress(ValueError, TypeError):
            select(encoder, choices)


def write_seeds() -> None:
    """The corpus to start from: nothing changed in any encoder, and random inputs of every length."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for seed in range(SEEDS):
        (CORPUS / f"seed-{seed}").write_bytes(rng.bytes(LONGEST * seed // SEEDS))


if __name__ == "__main__":
    files = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    if not files:
        write_seeds()
        sys.argv += [str(CORPUS), f"-artifact_prefix={CORPUS.parent}/", f"-max_len={LONGEST}", "-print_final_stats=1"]
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
