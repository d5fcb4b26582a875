"""A model that is fine-tuned already and the task of the data: whether its outputs are those of the task, and which is
which."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from prunetime.core.progress import Say
from prunetime.core.task import Task
from prunetime.core.task_kind import TASK_KINDS
from prunetime.errors import InputError
from prunetime.models.families import Pretrained, with_outputs
from prunetime.models.heads import PROBLEM_TYPES


def with_labels_of_teacher(task: Task, named: Sequence[str], model: str, say: Say) -> Task:
    """The task with the labels that the teacher `model` has names for (`named`) and the data has not, after its own.

    Raises InputError with both lists where the data has a label that the teacher has not. Labels without names, such as
    LABEL_0, say nothing, and the name of an only output is not that of a class: both leave the task as it is.
    """
    if not task.labels or len(named) < 2 or _nameless(named, task.labels):
        return task
    outputs = _outputs_of(task.labels, named)
    if missing := [label for label, output in zip(task.labels, outputs, strict=True) if output is None]:
        raise InputError(
            f"the labels of the data are not those of {model}, so it is no teacher for them: it has no {missing[0]!r}. "
            f"The data has {', '.join(task.labels)}; id2label of its config.json has {', '.join(named)}. Give them the "
            "same names (in the data or in id2label), or leave --teacher-ready out and it will be fine-tuned"
        )
    others = tuple(label for output, label in enumerate(named) if output not in outputs)
    if others:
        none = "; no text of the data counts as having one" if task.traits.is_multi_label else ""
        say(f"{model} has labels that the data has not, and keeps them: {', '.join(others)}{none}.")
    return replace(task, labels=(*task.labels, *others))


def in_order_of(task: Task, pretrained: Pretrained, model: str, ready: bool, say: Say) -> Pretrained:
    """The model with the outputs of its head in the order of the task's labels, by name.

    Where names say nothing, the order stays, and is said of a teacher that is `ready`; one that is not is fine-tuned.
    """
    if not task.labels or pretrained.labels is None:
        return pretrained
    outputs = [output for output in _outputs_of(task.labels, pretrained.labels) if output is not None]
    if len(outputs) < len(task.labels):
        if ready:
            order = ", ".join(f"{number} is {label}" for number, label in enumerate(task.labels))
            say(f"{model} does not name its labels. The order is taken to be that of the data: output {order}.")
        return pretrained
    if outputs == sorted(outputs):
        return pretrained
    say(f"Outputs of {model} are put in the order of the labels: {', '.join(task.labels)}.")
    return with_outputs(pretrained, outputs)


def check_problem_type(task: Task, pretrained: Pretrained, model: str) -> None:
    """Raises InputError where `problem_type` of the teacher's config.json makes other scores of its logits than the
    task does: transformers' pipelines take the softmax of single labels, the sigmoid of multiple labels, and the logits
    of regression. Only classes for sequences have it."""
    wanted = PROBLEM_TYPES.get(task.kind)
    if wanted is None or pretrained.problem_type in (None, wanted):
        return
    fitting = [
        kind
        for kind, name in PROBLEM_TYPES.items()
        if name == pretrained.problem_type and (TASK_KINDS[kind].outputs == 1) == (task.outputs == 1)
    ]
    hint = f"give --task {fitting[0]}, or" if fitting else "no task of ours has several such outputs:"
    raise InputError(
        f"{model} is no teacher for {task.kind}: problem_type of its config.json is {pretrained.problem_type!r}, and "
        f"{task.kind} is {wanted!r}; {hint} leave --teacher-ready out and it will be fine-tuned"
    )


def check_same_head(task: Task, pretrained: Pretrained, otherwise: str) -> None:
    """Raises InputError where the head of a model that is to be tuned is of another task, by `problem_type` and the
    names of its labels; `otherwise` says what to do then."""
    wanted, named = PROBLEM_TYPES.get(task.kind), pretrained.labels
    if pretrained.problem_type not in (None, wanted):
        raise InputError(
            f"problem_type of its config.json is {pretrained.problem_type!r}, and that of {task.kind} is {wanted!r}: "
            f"{otherwise}"
        )
    if task.labels and named and not _nameless(named, task.labels) and None in _outputs_of(task.labels, named):
        raise InputError(
            f"its labels are {', '.join(named)} (id2label of its config.json), and those of the task "
            f"{', '.join(task.labels)}: give them the same names, or, {otherwise}"
        )


def _nameless(named: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether these are the names that transformers gives to labels without one, which the data has not."""
    return all(re.fullmatch(r"LABEL_[0-9]+", name) for name in named) and not set(named) & set(labels)


def _outputs_of(labels: Sequence[str], named: Sequence[str]) -> list[int | None]:
    """The output of each label: that of the same name, but for its case where no two names are the same but for it."""
    folded = [[name.casefold() for name in names] for names in (labels, named)]
    distinct = all(len(set(names)) == len(names) for names in folded)
    ours, theirs = folded if distinct else (labels, named)
    return [theirs.index(name) if name in theirs else None for name in ours]
