"""Fuzzes the engine through its binding, guided by what its code reaches: `make fuzz SECONDS=60`.

Every input stands for a valid encoder and valid batches with a few changes to them: the first bytes say which, and no
bytes mean no change. What comes back must be an answer that is finite and the same alone as in company, or one of our
errors; anything else is a finding, as is what the sanitizers see. libFuzzer then names the file that holds the input;
`python tests/sanitizers.py fuzz tests/fuzz_engine.py FILE` repeats it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import atheris
import numpy as np
from cases import Weights, random_config, random_spec, random_weights
from numpy.typing import NDArray

from prunetime import _engine
from prunetime.runtime import engine as runtime

CORPUS = Path(__file__).resolve().parent.parent / "build" / "fuzz" / "corpus"
SEEDS = 256
LONGEST = 96
"""Bytes of an input; a change takes some six."""

Array = NDArray[Any]
Settings = dict[str, Any]

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


@cache
def valid_encoder(seed: int) -> tuple[Settings, Weights, int, int]:
    """(settings, weights, vocabulary, longest sequence) of a small encoder; sizes are whole tiles in some."""
    rng = np.random.default_rng(seed)
    odd = {"hidden": 24, "heads": 3, "head_dim": 12, "ffn": 40}
    config = random_config(rng, layers=1 + seed % 3, vocabulary=40, positions=24, **(odd if seed % 2 else {"heads": 2}))
    weights = random_weights(config, random_spec(config, rng), rng)
    for array in weights.values():
        array.flags.writeable = False
    return runtime._settings(config), weights, config.dims.vocabulary, config.dims.positions


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


def change_settings(settings: Settings, choices: Choices) -> None:
    name = choices.of(sorted(settings))
    match choices.index(3):
        case 0:
            settings[name] = choices.of((*INTEGERS, *FLOATS, True))
        case 1:
            settings[name] = choices.of(JUNK)
        case _:
            settings.pop(name)


def encoder_of(choices: Choices) -> tuple[Any, int, int]:
    """(encoder, vocabulary, longest sequence), or the error of ours that refuses it."""
    given_settings, given_weights, vocabulary, longest = valid_encoder(choices.index(16))
    settings, weights = dict(given_settings), dict(given_weights)
    for _ in range(choices.of((0, 0, 1, 1, 2, 3))):
        if weights:
            change_weights(weights, choices)
    if choices.index(8) == 7:
        change_settings(settings, choices)
    threads = choices.of((2, 3, 0, -1, 257, 2**40, "2", None)) if choices.index(6) == 5 else 1
    isa = choices.of((*_engine.supported_isas(), "sse9", "", "\0", None)) if choices.index(2) else ""
    return _engine.Encoder(settings, weights, threads, isa), vocabulary, longest


def batch_of(choices: Choices, vocabulary: int, longest: int) -> list[Any]:
    """[ids, types, offsets]"""
    lengths = [1 + choices.index(longest) for _ in range(1 + choices.index(6))]
    rng = np.random.default_rng(choices.index(256))
    ids = rng.integers(0, vocabulary, sum(lengths)).astype(np.int32)
    batch: list[Any] = [ids, ids % 2, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)]
    for _ in range(choices.of((0, 0, 1, 2))):
        place = choices.of((2, 0, 1))
        if isinstance(batch[place], np.ndarray):
            batch[place] = changed(batch[place], choices)
    return batch


def check(encoder: Any, batch: list[Any]) -> None:
    """An answer is finite, and every sequence's is the same bits alone."""
    ids, types, offsets = batch
    logits = encoder.forward(ids, types, offsets)
    assert logits.shape[0] == len(offsets) - 1
    assert np.isfinite(logits).all()
    for row, (first, end) in enumerate(pairwise(offsets)):
        alone = encoder.forward(ids[first:end].copy(), types[first:end].copy(), np.array([0, end - first], np.int32))
        assert np.array_equal(alone[0], logits[row]), f"sequence {row} alone has other logits than in its batch"


def test_one_input(data: bytes) -> None:
    choices = Choices(data)
    try:
        encoder, vocabulary, longest = encoder_of(choices)
    except (ValueError, TypeError):
        return
    for _ in range(1 + choices.index(3)):
        batch = batch_of(choices, vocabulary, longest)
        try:
            check(encoder, batch)
        except (ValueError, TypeError):
            continue


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
