"""The table of kinds of tasks: every layer has an entry for each kind, and no code compares their names."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

import prunetime
from prunetime.core.task import Task
from prunetime.core.task_kind import TASK_KINDS, TaskKind, TaskTraits
from prunetime.export.card import AUTO
from prunetime.inference.reading import READERS
from prunetime.models.losses import LOSSES
from prunetime.models.modeling import OF_HEAD
from prunetime.tasks.data import LABELS
from prunetime.tasks.metrics import default_metric, metric

SOURCES = sorted(Path(prunetime.__file__).parent.rglob("*.py"))
BY_KIND: dict[str, Mapping[Any, Any]] = {"inference": READERS, "tasks": LABELS, "models": LOSSES}
BY_HEAD: dict[str, Mapping[Any, Any]] = {"transformers": OF_HEAD, "card": AUTO}


def missing(kinds: Mapping[Any, TaskTraits]) -> list[str]:
    """What lacks an entry for one of `kinds`."""
    found = [f"{where}: {kind}" for where, table in BY_KIND.items() for kind in kinds if kind not in table]
    found += [f"{where}: {t.head}" for where, table in BY_HEAD.items() for t in kinds.values() if t.head not in table]
    return found + [f"type: {kind}" for kind in kinds if kind not in get_args(TaskKind)]


def task_of(kind: TaskKind) -> Task:
    traits = TASK_KINDS[kind]
    text = tuple("ab"[: traits.text_counts[-1]])
    return Task(kind, ("x", "y") if traits.has_labels else (), text, 16, 4 if traits.reads_windows else None)


def test_every_layer_has_every_kind_and_no_other() -> None:
    assert missing(TASK_KINDS) == []
    assert {kind for table in (*BY_KIND.values(), get_args(TaskKind)) for kind in table} == set(TASK_KINDS)


def test_a_new_kind_without_its_entries_is_found() -> None:
    planted: dict[Any, TaskTraits] = TASK_KINDS | {"ranking": TaskTraits(gives="an order")}
    assert missing(planted) == ["inference: ranking", "tasks: ranking", "models: ranking", "type: ranking"]


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_the_default_metric_of_every_kind_fits_it(kind: TaskKind) -> None:
    default_metric(task_of(kind)).check(task_of(kind))
    traits = TASK_KINDS[kind]
    assert metric(traits.default_metric).higher_is_better


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_traits_go_together(kind: TaskKind) -> None:
    traits, task = TASK_KINDS[kind], task_of(kind)
    assert (traits.head == "pooled") == (traits.rows == "pooled")
    assert traits.outputs is None or not traits.has_labels
    assert task.outputs == {"embedding": None}.get(traits.rows, 2 if traits.has_labels else traits.outputs)
    assert not traits.text_names or len(traits.text_names) in traits.text_counts


def comparisons(read: Callable[[Path], str]) -> list[str]:
    names = "|".join(TASK_KINDS)
    compared = re.compile(rf"kind (==|!=|in|not in) .*\"({names})\"")
    return [line.strip() for path in SOURCES for line in read(path).splitlines() if compared.search(line)]


def test_almost_no_code_compares_the_name_of_a_kind() -> None:
    assert len(comparisons(lambda path: path.read_text())) < 5
    assert len(comparisons(lambda _: 'if task.kind == "relevance":')) == len(SOURCES)
