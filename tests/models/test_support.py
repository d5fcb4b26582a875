"""What runs where: every family and task, pruned unevenly, in every format and precision. The table is
`docs/reference/families.md`; `python tests/models/test_support.py` writes it again."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.utils import logging

sys.path.append(str(Path(__file__).parents[1]))  # as a script
from cases import family_fields, random_config, random_ragged, random_weights, reference_logits

from prunetime.arch import ArchSpec, LayerSpec
from prunetime.config import FAMILIES, EncoderConfig
from prunetime.export.onnx import export_onnx
from prunetime.models.encoder import from_weights
from prunetime.models.families import REFUSED
from prunetime.models.hf import config_json
from prunetime.plan import Plan
from prunetime.runtime.engine import Engine
from prunetime.runtime.ragged import Ragged
from prunetime.task import Task

logging.disable_progress_bar()

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"

TASKS = {
    "classification": Task("classification", ("bad", "good"), ("query", "title"), 24),
    "question-answering": Task("question-answering", (), ("question", "context"), 24, 4),
    "token-classification": Task("token-classification", ("O", "B-X"), ("tokens",), 24),
    "similarity": Task("similarity", (), ("query", "title"), 24),
}
AUTO = {
    "classification": AutoModelForSequenceClassification,
    "question-answering": AutoModelForQuestionAnswering,
    "token-classification": AutoModelForTokenClassification,
    "similarity": AutoModel,
}

Weights = dict[str, NDArray]
Logits = NDArray[np.float32]
Run = Callable[[EncoderConfig, ArchSpec, Weights, Ragged, Task, Path], Logits]


def tensors(config: EncoderConfig, ragged: Ragged) -> dict[str, torch.Tensor]:
    ids, mask, types = (torch.from_numpy(array.astype(np.int64)) for array in ragged.padded(0))
    found = {"input_ids": ids, "attention_mask": mask}
    return found | ({"token_type_ids": types} if FAMILIES[config.family].token_types else {})


def real(logits: torch.Tensor, inputs: dict[str, torch.Tensor]) -> Logits:
    """Without padding, which has rows of its own where every token has."""
    return (logits if logits.dim() == 2 else logits[inputs["attention_mask"] == 1]).numpy()


def in_torch(config: EncoderConfig, spec: ArchSpec, weights: Weights, ragged: Ragged, _: Task, __: Path) -> Logits:
    inputs = tensors(config, ragged)
    with torch.no_grad():
        return real(from_weights(config, weights, spec=spec).eval()(**inputs).logits, inputs)


def in_transformers(
    config: EncoderConfig, spec: ArchSpec, weights: Weights, ragged: Ragged, task: Task, folder: Path
) -> Logits:
    (folder / "config.json").write_bytes(config_json(config, spec, task))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    inputs = tensors(config, ragged)
    with torch.no_grad():
        found = AUTO[task.kind].from_pretrained(folder).eval()(**inputs)
    if task.kind == "question-answering":
        return real(torch.stack((found.start_logits, found.end_logits), dim=-1), inputs)
    return real(found.pooler_output if task.kind == "similarity" else found.logits, inputs)


def in_onnx(config: EncoderConfig, spec: ArchSpec, weights: Weights, ragged: Ragged, _: Task, folder: Path) -> Logits:
    export_onnx(config, weights, folder / "model.onnx", spec=spec)
    session, inputs = onnxruntime.InferenceSession(folder / "model.onnx"), tensors(config, ragged)
    (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return real(torch.from_numpy(logits), inputs)


def in_engine(precision: str) -> Run:
    def run(config: EncoderConfig, spec: ArchSpec, weights: Weights, ragged: Ragged, _: Task, __: Path) -> Logits:
        return Engine(config, weights, spec=spec, plan=Plan.uniform(precision)).logits(ragged)

    return run


WAYS: dict[str, tuple[Run, float]] = {
    "torch": (in_torch, 1e-5),
    "transformers": (in_transformers, 1e-5),
    "ONNX Runtime": (in_onnx, 1e-5),
    "engine fp32": (in_engine("fp32"), 1e-5),
    "engine bf16": (in_engine("bf16"), 0.05),
    "engine int8": (in_engine("int8"), 0.15),
}
"""Each with what it may be off by, of the deviation of the logits."""


def uneven(config: EncoderConfig) -> ArchSpec:
    """A layer as it was, one without heads, one without FFN, one without both, and one that has lost some of all."""
    dims = config.dims
    whole = LayerSpec(dims.heads, dims.hidden, dims.ffn, dims.hidden)
    return ArchSpec(
        (
            whole,
            LayerSpec(0, dims.hidden, dims.ffn, dims.hidden),
            LayerSpec(dims.heads, dims.hidden, 0, dims.hidden),
            LayerSpec(0, dims.hidden, 0, dims.hidden),
            LayerSpec(dims.heads - 1, dims.hidden - 32, dims.ffn - 32, dims.hidden - 64),
        )
    )


def differences(family: str, task: Task) -> Iterator[tuple[str, float]]:
    """How far each way is from float64, of the deviation of the logits."""
    rng = np.random.default_rng(0)
    sizes = {"layers": 5, "heads": 3, "head_dim": 32, "ffn": 160, "outputs": 2, "rows": task.rows}
    config = random_config(rng, **family_fields(family), **sizes)
    spec = uneven(config)
    weights, ragged = random_weights(config, spec, rng), random_ragged(config, rng, [24, 3, 11, 17, 9, 20])
    expected = reference_logits(config, weights, ragged, spec)
    for way, (run, _) in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            logits = run(config, spec, weights, ragged, task, Path(folder))
        yield way, float(np.abs(logits - expected).max() / expected.std())


def table(found: dict[tuple[str, str], dict[str, float]]) -> str:
    lines = [
        "# Families",
        "",
        "Every family, for every kind of task, pruned unevenly: with layers that have no heads, no FFN, or neither.",
        "What each way to run it is off by from float64 at most, of the deviation of the logits (of similarity, of the",
        "embeddings); a test runs every cell (`tests/models/test_support.py`, which writes this table).",
        "",
        "| family | task | " + " | ".join(WAYS) + " |",
        "|---|---|" + "---|" * len(WAYS),
    ]
    for (family, task), cells in found.items():
        within = [f"within {WAYS[way][1]:g}" if off <= WAYS[way][1] else "no" for way, off in cells.items()]
        lines.append(f"| {family} | {task} | " + " | ".join(within) + " |")
    lines += ["", "Refused:", ""]
    lines += [f"- `{family}`: {why}." for family, why in REFUSED.items()]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, str], dict[str, float]]:
    return measured()


def measured() -> dict[tuple[str, str], dict[str, float]]:
    return {(family, name): dict(differences(family, task)) for family in FAMILIES for name, task in TASKS.items()}


def test_everything_runs_everywhere(found: dict[tuple[str, str], dict[str, float]]) -> None:
    for cell, cells in found.items():
        for way, off in cells.items():
            assert off <= WAYS[way][1], (cell, way)


def test_the_table_is_what_was_found(found: dict[tuple[str, str], dict[str, float]]) -> None:
    assert TABLE.read_text(encoding="utf-8") == table(found), "python tests/models/test_support.py writes it again"


if __name__ == "__main__":
    results = measured()
    TABLE.write_text(table(results), encoding="utf-8")
    for cell, cells in results.items():
        print(*cell, {way: f"{off:.2g}" for way, off in cells.items()})
