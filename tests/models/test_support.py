"""What runs where: every family and task, pruned unevenly, in every format and precision. The table is
`docs/reference/families.md`; `python tests/models/test_support.py` writes it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers.utils import logging

sys.path.append(str(Path(__file__).parents[1]))  # as a script
from cases import family_fields, random_config, random_ragged, random_weights
from reference import reference_logits

from prunetime.core import artifact
from prunetime.core.arch import ArchSpec, LayerSpec
from prunetime.core.config import FAMILIES, EncoderConfig, HeadLayer, Pooling
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task import Task
from prunetime.core.task_kind import TASK_KINDS
from prunetime.export.onnx import export_onnx
from prunetime.export.openvino import export_openvino
from prunetime.export.transformers import AUTO, export_transformers
from prunetime.inference.engine import Engine
from prunetime.inference.ragged import Ragged
from prunetime.models.encoder import from_weights
from prunetime.models.hf import config_json
from prunetime.models.names import REFUSED

logging.disable_progress_bar()

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"

TASKS = {
    "classification": Task("classification", ("bad", "good"), ("query", "title"), 24),
    "question-answering": Task("question-answering", (), ("question", "context"), 24, 4),
    "token-classification": Task("token-classification", ("O", "B-X"), ("tokens",), 24),
    "similarity": Task("similarity", (), ("query", "title"), 24),
}

Row = tuple[str, str]
"""The family and the task of a row of the table."""

HEADS: dict[Row, tuple[str, dict[str, Any]]] = {
    **{("bert", f"similarity, {name}"): ("similarity", {"pooling": name}) for name in get_args(Pooling)[1:]},
    ("modernbert", "similarity, lasttoken"): ("similarity", {"pooling": "lasttoken"}),
    ("bert", "similarity, Dense and Normalize"): (
        "similarity",
        {"pooling": "mean", "head": (HeadLayer("dense", 40, "tanh"),), "normalize": True},
    ),
    ("bert", "classification, Dense, LayerNorm and Dense"): (
        "classification",
        {"head": (HeadLayer("dense", 72, "gelu"), HeadLayer("norm", 72), HeadLayer("dense", 2))},
    ),
}
"""Models as sentence-transformers has them: the task, and what differs in the config."""

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A model, a batch, and an artifact of the model in `folder`."""

    config: EncoderConfig
    spec: ArchSpec
    weights: dict[str, NDArray]
    ragged: Ragged
    task: Task
    folder: Path

    @property
    def inputs(self) -> dict[str, NDArray[np.int64]]:
        names = [
            "input_ids",
            "attention_mask",
            *(["token_type_ids"] if FAMILIES[self.config.family].token_types else []),
        ]
        return {name: array.astype(np.int64) for name, array in zip(names, self.ragged.padded(0), strict=False)}

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in self.inputs.items()}

    @property
    def auto(self) -> str:
        return AUTO[TASK_KINDS[self.task.kind].head]

    @cached_property
    def expected(self) -> Logits:
        """The logits in float64."""
        return reference_logits(self.config, self.weights, self.ragged, self.spec)


def in_torch(case: Case) -> Logits:
    with torch.no_grad():
        return from_weights(case.config, case.weights, spec=case.spec).eval()(**case.tensors).logits.numpy()


def in_transformers(case: Case) -> Logits:
    with torch.no_grad():
        found = getattr(transformers, case.auto).from_pretrained(case.folder).eval()(**case.tensors)
    if case.task.kind == "question-answering":
        return torch.stack((found.start_logits, found.end_logits), dim=-1).numpy()
    return (found.pooler_output if case.task.kind == "similarity" else found.logits).numpy()


ALONE = """
import json, sys
sys.modules["prunetime"] = None  # as where it is not installed
import numpy, torch, transformers

for folder, auto in json.loads(sys.argv[1]):
    model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        found = model(**{name: torch.from_numpy(array) for name, array in numpy.load(folder + ".npz").items()})
    logits = found.pooler_output if auto == "AutoModel" else found.logits if "logits" in found else torch.stack(
        (found.start_logits, found.end_logits), dim=-1)
    numpy.save(folder, logits.numpy())
"""


def in_transformers_alone(cases: Sequence[Case]) -> list[Logits]:
    """All in one process: importing transformers takes longer than running them."""
    with tempfile.TemporaryDirectory() as home:
        folders = [Path(home) / f"model{number}" for number in range(len(cases))]
        for case, folder in zip(cases, folders, strict=True):
            export_transformers(case.folder, folder)
            np.savez(folder.with_suffix(".npz"), **case.inputs)
        given = json.dumps([(str(folder), case.auto) for case, folder in zip(cases, folders, strict=True)])
        environment = {**os.environ, "HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        ran = subprocess.run([sys.executable, "-c", ALONE, given], capture_output=True, text=True, env=environment)
        assert ran.returncode == 0, ran.stderr
        return [np.load(folder.with_suffix(".npy")) for folder in folders]


def in_onnx_runtime(case: Case) -> Logits:
    export_onnx(case.config, case.weights, case.folder / "model.onnx", spec=case.spec)
    return onnxruntime.InferenceSession(case.folder / "model.onnx").run(None, case.inputs)[0]


def in_openvino(case: Case) -> Logits:
    export_openvino(case.config, case.weights, case.folder / "model.xml", case.spec)
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(case.folder / "model.xml", "CPU", hints)(case.inputs)[0]


def each(run: Callable[[Case], Logits]) -> Callable[[Sequence[Case]], list[Logits]]:
    return lambda cases: [run(case) for case in cases]


def in_engine(precision: str) -> Callable[[Sequence[Case]], list[Logits]]:
    plan = PrecisionPlan.uniform(precision)
    return each(lambda case: Engine(case.config, case.weights, spec=case.spec, plan=plan).logits(case.ragged))


WAYS: dict[str, tuple[Callable[[Sequence[Case]], list[Logits]], float]] = {
    "torch": (each(in_torch), 1e-5),
    "transformers": (each(in_transformers), 1e-5),
    "transformers alone": (in_transformers_alone, 1e-5),
    "ONNX Runtime": (each(in_onnx_runtime), 1e-5),
    "OpenVINO": (each(in_openvino), 1e-4),
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


def case_of(family: str, task: Task, folder: Path, **head: Any) -> Case:
    rng = np.random.default_rng(0)
    sizes = {"layers": 5, "heads": 3, "head_dim": 32, "ffn": 160, "outputs": 2, "rows": task.rows}
    config = random_config(rng, **(family_fields(family) | sizes | head))
    spec = uneven(config)
    weights, ragged = random_weights(config, spec, rng), random_ragged(config, rng, [24, 3, 11, 17, 9, 20])
    files = {"config.json": config_json(config, spec, task), artifact.TOKENIZER: b"{}"}
    artifact.write(folder, artifact.Manifest(config, spec, PrecisionPlan(), task, {}), weights, files)
    return Case(config, spec, weights, ragged, task, folder)


def off(case: Case, logits: Logits) -> float:
    """How far from float64, of the deviation of the logits; padding, which has rows of its own where every token has,
    aside."""
    padded = len(logits) != len(case.expected)
    real = logits[case.inputs["attention_mask"] == 1] if padded else logits
    return float(np.abs(real - case.expected).max() / case.expected.std())


Found = dict[Row, dict[str, float]]


def measured() -> Found:
    rows: dict[Row, tuple[str, dict[str, Any]]] = {(family, task): (task, {}) for family in FAMILIES for task in TASKS}
    rows |= HEADS
    with tempfile.TemporaryDirectory() as home:
        cases = [
            case_of(family, TASKS[task], Path(home) / str(number), **head)
            for number, ((family, _), (task, head)) in enumerate(rows.items())
        ]
        found: Found = {row: {} for row in rows}
        for way, (run, _) in WAYS.items():
            for row, case, logits in zip(rows, cases, run(cases), strict=True):
                found[row][way] = off(case, logits)
    return found


def table(found: Found) -> str:
    lines = [
        "# Families",
        "",
        "Every family, for every kind of task, pruned unevenly: with layers that have no heads, no FFN, or neither.",
        "The poolings and heads of sentence-transformers do not depend on the family; they follow at the end.",
        "What each way to run it is off by from float64 at most, of the deviation of the logits (of similarity, of the",
        "embeddings); a test runs every cell (`tests/models/test_support.py`, which writes this table). transformers",
        "alone is `export --to transformers`, loaded with `trust_remote_code` where prunetime is not installed.",
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
def found() -> Found:
    return measured()


def test_everything_runs_everywhere(found: Found) -> None:
    for name, cells in found.items():
        for way, difference in cells.items():
            assert difference <= WAYS[way][1], (name, way)


def test_the_table_is_what_was_found(found: Found) -> None:
    assert TABLE.read_text(encoding="utf-8") == table(found), "python tests/models/test_support.py writes it again"


if __name__ == "__main__":
    results = measured()
    TABLE.write_text(table(results), encoding="utf-8")
    for name, cells in results.items():
        print(*name, {way: f"{difference:.2g}" for way, difference in cells.items()})
