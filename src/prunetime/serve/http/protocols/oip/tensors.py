"""Converts tensors to the texts that a model reads, and scores to tensors. It knows no HTTP and no gRPC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from prunetime.core.task import Answer, Task
from prunetime.inference.tokenize import Texts
from prunetime.serve.core.service import Scored
from prunetime.serve.errors import RefusedError
from prunetime.serve.http.protocols.common import labelled
from prunetime.serve.http.protocols.oip.messages import OutputTensor, TensorMetadata, WantedTensor
from prunetime.serve.http.protocols.oip.parameters import OUTPUT, check_parameters, whole_number


class TextTensor(NamedTuple):
    """A named input: the `texts` of a BYTES tensor."""

    name: str
    shape: Sequence[int]
    texts: Sequence[str]


def rows_of(inputs: Sequence[TextTensor], task: Task) -> list[Texts]:
    """Makes rows of texts from `inputs`, which are named after the task's columns.

    Raises RefusedError for a name that is unknown, missing or given twice, and for shapes that do not match.
    """
    by_name = {each.name: each for each in inputs}
    columns = ", ".join(task.text)
    for index, each in enumerate(inputs):
        if each.name not in task.text:
            raise RefusedError("unusable", f"no input is named {each.name[:80]!r}; the model's inputs are {columns}")
        if by_name[each.name] is not each:
            raise RefusedError("unusable", f"two inputs have the name {each.name}, the second is number {index}")
    if missing := [name for name in task.text if name not in by_name]:
        raise RefusedError(
            "unusable",
            f"{len(inputs)} inputs; this model takes {len(task.text)}: {columns}; there is no {', '.join(missing)}",
        )
    for each in inputs:
        if row_count(each.name, each.shape) != len(each.texts):
            raise RefusedError(
                "unusable", f"input {each.name}: {len(each.texts)} texts, and its shape is {list(each.shape)}"
            )
    ordered = [by_name[name].texts for name in task.text]
    if len({len(column) for column in ordered}) > 1:
        raise RefusedError(
            "unusable", f"inputs of {' and '.join(str(len(column)) for column in ordered)} rows: shapes must be equal"
        )
    return list(zip(*ordered, strict=True))


def row_count(name: str, shape: Sequence[int]) -> int:
    """The number of rows of a shape [rows] or [rows, 1]. Raises RefusedError for any other shape."""
    if len(shape) not in (1, 2) or shape[0] < 0 or list(shape[1:]) not in ([], [1]):
        shown = f"{list(shape[:4])}{' and on' * (len(shape) > 4)}"
        raise RefusedError("unusable", f"input {name[:80]}: its shape is {shown}; it must be [rows] or [rows, 1]")
    return shape[0]


def inputs_of(task: Task) -> list[TensorMetadata]:
    """The tensors that a model of `task` takes: its columns of texts."""
    return [TensorMetadata(name, "BYTES", [-1]) for name in task.text]


def outputs_of(task: Task) -> list[TensorMetadata]:
    """The tensors that a model of `task` answers with."""
    shapes = {"score": [-1, *task.score_shape]}
    return [TensorMetadata(name, datatype, shapes.get(name, [-1])) for name, datatype in task.traits.tensors]


def check_wanted(wanted: Sequence[WantedTensor], task: Task) -> None:
    """Raises RefusedError where there is no such output, it is named twice, or a parameter cannot be honoured."""
    names = [each.name for each in outputs_of(task)]
    for index, each in enumerate(wanted):
        of = f"output {each.name[:80]}"
        if each.name not in names:
            raise RefusedError("unusable", f"outputs: there is no {each.name[:80]!r}; there is {', '.join(names)}")
        if each.name in (other.name for other in wanted[:index]):
            raise RefusedError("unusable", f"{of} is asked for twice")
        given = check_parameters(of, OUTPUT, each.parameters)
        if whole_number(of, "classification", given) and (task.rows != "pooled" or each.name != "score"):
            raise RefusedError("unusable", f"{of}: classification is of class scores, which it has not; leave it out")


def output_tensors(scored: Scored, wanted: Sequence[WantedTensor] | None = None) -> list[OutputTensor]:
    """The outputs of a response that are `wanted` (and checked), by default all."""
    outputs = _all_outputs(scored)
    if wanted is None:
        return outputs
    by_name = {each.name: each for each in outputs}
    found = []
    for each in wanted:
        classes = (each.parameters or {}).get("classification")
        found.append(_best_classes(scored, classes) if classes else by_name[each.name])
    return found


def _all_outputs(scored: Scored) -> list[OutputTensor]:
    scores, task = scored.scores, scored.inputs.task
    if task.traits.reads_windows:
        answers: list[Answer] = list(scores)
        shape = [len(answers)]
        return [
            OutputTensor("answer", shape, "BYTES", [each.text for each in answers]),
            OutputTensor("start", shape, "INT64", [each.start for each in answers]),
            OutputTensor("score", shape, "FP32", [each.score for each in answers]),
        ]
    if task.traits.labels_words:
        spans: list[Any] = [
            json.dumps([span._asdict() for span in tagged.spans], ensure_ascii=False) for tagged in scores
        ]
        return [OutputTensor("spans", [len(spans)], "BYTES", spans)]
    found = [OutputTensor("score", list(scores.shape), "FP32", scores.ravel().tolist())]
    if task.traits.is_multi_label:
        lists: list[Any] = [json.dumps(labels, ensure_ascii=False) for labels in task.assigned(scores)]
        found.append(OutputTensor("labels", [len(lists)], "BYTES", lists))
    return found


def _best_classes(scored: Scored, count: int) -> OutputTensor:
    """The best `count` classes of every row, as Triton writes them: value:index:label, or value:index of one number
    without a label."""
    labels, table = labelled(scored)
    named = [f":{label}" for label in labels] if scored.inputs.task.labels else [""] * len(labels)
    order = np.argsort(-table, axis=1, kind="stable")[:, :count]
    best: list[Any] = [
        f"{row[index]:f}:{index}{named[index]}" for row, indices in zip(table, order, strict=True) for index in indices
    ]
    return OutputTensor("score", list(order.shape), "BYTES", best)
