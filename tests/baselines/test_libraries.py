"""Files that other libraries read give the logits that these libraries give of them, whatever the lengths."""

import importlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
from cases import random_config, random_ragged, random_weights
from reference import reference_logits

from prunetime.baselines.bench import error_of
from prunetime.baselines.libraries import LIBRARIES, FileModel, open_file, write_int8
from prunetime.baselines.setting import inputs_of
from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Float32Array
from prunetime.core.config import EncoderConfig
from prunetime.errors import InputError
from prunetime.inference.ragged import Ragged

LENGTHS = (7, 16, 1, 7, 12, 7, 16)


Written = tuple[EncoderConfig, dict[str, np.ndarray], Path]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Written]:
    """A tiny encoder in the int8 of a library, whose head reads rows of some kind."""

    @cache
    def write(name: str, rows: str = "pooled") -> Written:
        rng = np.random.default_rng(3)
        config = random_config(rng, outputs=2, rows=rows, layers=1)
        weights = random_weights(config, ArchSpec.full(config.dims), rng)
        calibration = [random_ragged(config, rng, (length,)) for length in (3, 16, 9, 12)]
        return config, weights, write_int8(name, config, weights, tmp_path_factory.mktemp(name), calibration)

    return write


def by_onnxruntime(file: Path, batch: Ragged) -> Float32Array:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    wanted = {item.name for item in session.get_inputs()}
    return session.run(None, {name: array for name, array in inputs_of(batch).items() if name in wanted})[0]


def by_openvino(file: Path, batch: Ragged) -> Float32Array:
    compiled = openvino.Core().compile_model(file, "CPU")
    wanted = {item.any_name for item in compiled.inputs}
    return compiled({name: array for name, array in inputs_of(batch).items() if name in wanted})[0]


NEAR = {"onnxruntime": 1e-5, "openvino": 0.02}
"""How far logits of one shape may be from those of any: OpenVINO computes in bf16 what it does not quantise."""

BY_HAND = {"onnxruntime": by_onnxruntime, "openvino": by_openvino}


@pytest.mark.parametrize(
    ("name", "rows"), [("onnxruntime", "pooled"), ("onnxruntime", "tokens"), ("openvino", "pooled")]
)
def test_logits_are_those_that_the_library_gives_of_the_file(
    written: Callable[[str, str], Written], name: str, rows: str
) -> None:
    config, weights, file = written(name, rows)
    batch = random_ragged(config, np.random.default_rng(5), LENGTHS)
    found = FileModel(file, config, batch=1, threads=1).logits(batch)
    by_hand = [BY_HAND[name](file, part).reshape(-1, config.outputs) for part in batch.batches(1)]
    np.testing.assert_allclose(found, np.concatenate(by_hand), atol=1e-5)
    error = error_of(name, "int8", found, reference_logits(config, weights, batch))
    assert error > 1e-4  # it is int8
    together = FileModel(file, config, batch=4, threads=1).logits(batch)
    np.testing.assert_allclose(together, found, atol=20 * error)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_file_that_is_opened_at_one_shape_gives_the_same_logits(
    written: Callable[[str, str], Written], name: str
) -> None:
    config, _, file = written(name, "pooled")
    bind = open_file(file, threads=1, shape=(2, 9))
    batches = [random_ragged(config, np.random.default_rng(seed), (9, 9)) for seed in range(2)]
    calls = [bind(batch) for batch in batches]
    of_any = FileModel(file, config, batch=2, threads=1)
    for turn in (0, 1, 1, 0):
        np.testing.assert_allclose(calls[turn](), of_any.logits(batches[turn]), atol=NEAR[name])
    first = calls[0]()
    kept = first.copy()
    calls[1]()
    np.testing.assert_array_equal(first, kept)
    with pytest.raises(Exception, match=r"(?i)shape|dimension"):
        bind(random_ragged(config, np.random.default_rng(0), (5, 5)))()


def test_prompts_that_are_not_pooled_are_refused(written: Callable[[str, str], Written]) -> None:
    config, _, file = written("onnxruntime", "pooled")
    batch = random_ragged(config, np.random.default_rng(0), (9, 4))
    skipping = Ragged(batch.ids, batch.types, batch.offsets, np.array([2, 0], np.int32))
    with pytest.raises(InputError, match="prompts"):
        FileModel(file, config, batch=1, threads=1).logits(skipping)


def test_a_library_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(library.missing == [] for library in LIBRARIES.values())
    libraries = importlib.import_module("prunetime.baselines.libraries")
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == "nncf" else object())
    assert {name: library.missing for name, library in LIBRARIES.items()} == {"onnxruntime": [], "openvino": ["nncf"]}


def test_quantising_leaves_the_logging_of_the_process_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, rng = logging.getLogger(), np.random.default_rng(3)
    config = random_config(rng, outputs=2, rows="pooled", layers=1)
    with monkeypatch.context() as patch:
        patch.setattr(root, "handlers", [])  # pytest has some
        level = root.level
        write_int8("onnxruntime", config, random_weights(config, ArchSpec.full(config.dims), rng), tmp_path, [])
        assert (root.handlers, root.level) == ([], level)
