"""Rivals run the same model as the engine, and a wrong one is not timed."""

import sys
from pathlib import Path

import numpy as np
import pytest
from cases import random_config, random_ragged, random_spec, random_weights, reference_logits

from prunetime.artifact import Artifact, Manifest
from prunetime.budget import Budget
from prunetime.errors import InputError, PrunetimeError
from prunetime.plan import Plan
from prunetime.rivals import bench, onnxruntime, pytorch
from prunetime.runtime.engine import supported_isas
from prunetime.task import Task


def artifact(seed: int) -> Artifact:
    """A tiny pruned model in memory."""
    rng = np.random.default_rng(seed)
    config = random_config(rng, outputs=2)
    spec = random_spec(config, rng)
    task = Task("classification", ("0", "1"), ("text",), 16)
    weights = random_weights(config, spec, rng)
    return Artifact(Path(), Manifest(config, spec, Plan(), task), weights, b"{}")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rival", [pytorch, onnxruntime])
def test_rivals_give_the_reference_logits_of_ragged_batches(rival, seed: int) -> None:
    model = artifact(seed)
    batch = random_ragged(model.manifest.config, np.random.default_rng(seed), [7, 1, 16])
    expected = reference_logits(model.manifest.config, model.weights, batch)
    np.testing.assert_allclose(rival.runner(model, batch, 1)(), expected, atol=2e-5)


def test_rows_of_every_instruction_set_and_rival() -> None:
    budget = Budget(share=1.0, seq_len=8, batch=2)
    rows = bench.rows(artifact(0), budget, ["onnxruntime", "pytorch"])
    own = [f"prunetime {isa}" for isa in supported_isas()]
    assert [row["engine"] for row in rows] == [*own, "onnxruntime", "pytorch"]
    for row in rows:
        assert list(row) == [
            "engine", "precision", "batch", "seq_len", "threads", "p50_us", "p99_us", "max_logit_error",
        ]  # fmt: skip
        assert (row["precision"], row["batch"], row["seq_len"], row["threads"]) == ("fp32", 2, 8, 1)
        assert 0.0 < row["p50_us"] <= row["p99_us"]
        assert 0.0 <= row["max_logit_error"] < 1e-4
    assert rows[-1]["max_logit_error"] == 0.0


def test_an_engine_that_runs_another_model_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other, timed = artifact(0), artifact(0), []
    changed = {**other.weights, "head.output.bias": other.weights["head.output.bias"] + np.float32(0.02)}
    right = onnxruntime.runner
    wrong = Artifact(other.folder, other.manifest, changed, other.tokenizer)
    monkeypatch.setattr(onnxruntime, "runner", lambda _, batch, threads: right(wrong, batch, threads))
    monkeypatch.setattr(bench, "interleave", timed.append)
    with pytest.raises(PrunetimeError, match=r"onnxruntime differs from torch by 0\.02 in a logit, the limit is 0\.01"):
        bench.rows(model, Budget(share=1.0, seq_len=8), ["onnxruntime"])
    assert timed == []


@pytest.mark.parametrize("logits", [np.full((1, 2), np.nan, np.float32), np.zeros((1, 3), np.float32)])
def test_logits_that_are_none_are_refused(logits: np.ndarray) -> None:
    with pytest.raises(PrunetimeError, match="rival differs"):
        bench.error_of("rival", logits, np.zeros((1, 2), np.float32))


def test_unknown_rival() -> None:
    with pytest.raises(InputError, match="unknown rival 'tensorrt'; known are pytorch, onnxruntime"):
        bench.rows(artifact(0), Budget(share=1.0, seq_len=8), ["tensorrt"])


def test_rival_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prunetime.rivals.onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime needs onnxruntime, which is not installed: .*pytorch, onnx"):
        bench.rows(artifact(0), Budget(share=1.0, seq_len=8), ["onnxruntime"])


def test_sequences_that_are_too_long() -> None:
    with pytest.raises(InputError, match="--seq-len 65 is longer than the 64 positions"):
        bench.rows(artifact(0), Budget(share=1.0, seq_len=65), [])
