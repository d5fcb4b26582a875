"""Tensors to the rows of texts that a model reads, and scores to tensors. Nothing here knows of HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from prunetime.runtime.tokenize import Texts
from prunetime.serve.errors import RefusedError
from prunetime.serve.models import Hosted
from prunetime.serve.protocols.oip.messages import (
    InferRequest,
    InputTensor,
    ModelMetadata,
    OutputTensor,
    TensorMetadata,
    WantedTensor,
)
from prunetime.serve.service import Scored
from prunetime.task import Answer as SpanAnswer
from prunetime.task import Task

WITHOUT_EFFECT = {
    "request": {"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"},
    "input": {"content_type"},
    "output": {"binary_data"},
}
"""Parameters of the Open Inference Protocol's extensions that change no number: in which form outputs are wanted (they
are JSON here, which every client reads), when, and the place in a sequence, for models that keep a state."""


def rows_of(inputs: Sequence[InputTensor], task: Task) -> list[Texts]:
    """The texts of a request by the names of the task's columns, or in their order where a name is not one of them."""
    if len(inputs) != len(task.text):
        raise RefusedError(
            "unusable", f"{len(inputs)} inputs; this model takes {len(task.text)}: {', '.join(task.text)}"
        )
    named = {each.name: each for each in inputs}
    ordered = [named[name] for name in task.text] if set(named) == set(task.text) else list(inputs)
    columns = []
    for each in ordered:
        data = [text for row in each.data for text in ([row] if isinstance(row, str) else row)]
        if int(np.prod(each.shape, dtype=object)) != len(data):
            raise RefusedError(
                "unusable", f"input {each.name[:80]}: {len(data)} texts, and its shape is {each.shape[:8]}"
            )
        columns.append(data)
    if len({len(column) for column in columns}) > 1:
        raise RefusedError("unusable", f"inputs of {' and '.join(str(len(column)) for column in columns)} rows")
    return list(zip(*columns, strict=True))


def outputs_of(task: Task) -> list[TensorMetadata]:
    """The tensors that a model of `task` answers with."""
    if task.kind == "question-answering":
        return [TensorMetadata(*each, [-1]) for each in (("answer", "BYTES"), ("start", "INT64"), ("score", "FP32"))]
    if task.kind == "token-classification":
        return [TensorMetadata("spans", "BYTES", [-1])]
    return [TensorMetadata("score", "FP32", [-1, len(task.labels)] if len(task.labels) > 2 else [-1])]


def output_tensors(scored: Scored) -> list[OutputTensor]:
    """The tensors of an answer."""
    scores, task = scored.scores, scored.inputs.task
    if task.kind == "question-answering":
        answers: list[SpanAnswer] = list(scores)
        shape = [len(answers)]
        return [
            OutputTensor("answer", shape, "BYTES", [each.text for each in answers]),
            OutputTensor("start", shape, "INT64", [each.start for each in answers]),
            OutputTensor("score", shape, "FP32", [each.score for each in answers]),
        ]
    if task.kind == "token-classification":
        spans: list[float | int | str] = [
            json.dumps([span._asdict() for span in tagged.spans], ensure_ascii=False) for tagged in scores
        ]
        return [OutputTensor("spans", [len(spans)], "BYTES", spans)]
    return [OutputTensor("score", list(scores.shape), "FP32", scores.ravel().tolist())]


def wanted_tensors(outputs: list[OutputTensor], wanted: Sequence[WantedTensor] | None) -> list[OutputTensor]:
    """The tensors that a request wants of `outputs`, by default all; raises RefusedError where there is no such one."""
    if wanted is None:
        return outputs
    names = {each.name for each in wanted}
    if unknown := names - {each.name for each in outputs}:
        raise RefusedError("unusable", f"outputs: there is no {', '.join(sorted(unknown))[:80]}")
    return [each for each in outputs if each.name in names]


def metadata_of(hosted: Hosted, versions: Iterable[str]) -> ModelMetadata:
    """What a model is, which has these `versions`."""
    manifest = hosted.model.manifest
    parameters = {
        "kind": manifest.task.kind,
        "labels": list(manifest.task.labels),
        "max_length": manifest.task.max_length,
        "measured": manifest.provenance.get("measured"),
    }
    inputs = [TensorMetadata(name, "BYTES", [-1]) for name in manifest.task.text]
    return ModelMetadata(hosted.name, list(versions), "prunetime", inputs, outputs_of(manifest.task), parameters)


def check_parameters(asked: InferRequest) -> None:
    """Raises RefusedError for a parameter, of the request or of one of its tensors, that would change the answer."""
    _check_parameters("request", asked.parameters)
    for tensor in asked.inputs:
        _check_parameters("input", tensor.parameters, tensor.name)
        if (content := (tensor.parameters or {}).get("content_type", "str")) != "str":
            raise RefusedError(
                "unusable", f"input {tensor.name[:80]}: content_type is {str(content)[:80]!r}, not 'str'"
            )
    for wanted in asked.outputs or ():
        _check_parameters("output", wanted.parameters, wanted.name)


def _check_parameters(of: str, parameters: Mapping[str, Any] | None, name: str = "") -> None:
    unknown = sorted((parameters or {}).keys() - WITHOUT_EFFECT[of])
    if unknown:
        where = f"{of} {name[:80]}" if name else f"the {of}"
        raise RefusedError("unusable", f"{where}: no parameter {', '.join(unknown)[:200]} is known: leave it out")
