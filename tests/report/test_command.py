"""The command that a report shows makes the run's settings again, field by field."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.cli.runs import prune, settings_of
from prunetime.core.arch import BLOCK_SHAPES
from prunetime.core.budget import Budget, Condition, Statistic, TimingScope
from prunetime.core.precision import PRECISIONS
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.pipeline.settings import AUTO, EFFORTS, Settings
from prunetime.pruning.importance import Criterion
from prunetime.pruning.methods import Method
from prunetime.report.command import command
from prunetime.tasks.table import join_columns, split_columns

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
COUNTS = st.integers(1, 4096)
BUDGETS = st.builds(
    lambda amount, **setting: Budget(**{amount[0]: amount[1]}, **setting),
    st.tuples(st.just("us"), st.floats(0.0, exclude_min=True, allow_nan=False, allow_infinity=False))
    | st.tuples(st.just("share"), st.floats(0.0, 1.0, exclude_min=True)),
    statistic=st.sampled_from(get_args(Statistic)),
    scope=st.sampled_from(get_args(TimingScope)),
    condition=st.sampled_from(get_args(Condition)),
    seq_len=st.integers(3, 4096),
    batch=COUNTS,
    threads=COUNTS,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("model", "data"), NAMES),
    "budget": BUDGETS,
    **dict.fromkeys(("valid", "test", "label", "group", "metric"), st.none() | NAMES),
    "text": st.none() | st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    "task": st.none() | st.sampled_from(get_args(TaskKind)),
    "doc_stride": st.none() | st.integers(0, 4096),
    "slices": st.lists(NAMES, max_size=3).map(tuple),
    **dict.fromkeys(("teacher_ready", "tokens"), st.booleans()),
    "seed": st.integers(0, 2**31 - 1),
    "effort": st.sampled_from(list(EFFORTS.values())),
    "precision": st.sampled_from((*PRECISIONS, AUTO)),
    "max_loss": st.floats(0.0, 1.0, exclude_max=True),
    "importance": st.sampled_from(get_args(Criterion)),
    "blocks": st.none() | st.sampled_from(BLOCK_SHAPES),
    "method": st.sampled_from(get_args(Method)),
}


@st.composite
def settings(draw: st.DrawFn) -> Settings:
    """Settings with any values in any fields, as far as they go together."""
    values = {name: draw(strategy) for name, strategy in VALUES.items()}
    try:
        return Settings(**values)
    except InputError:  # tokens, blocks and movement are not of every method
        return Settings(**values | {"tokens": False, "blocks": None, "importance": "fisher"})


def parse(line: str) -> Settings:
    program, name, *words = shlex.split(line)
    assert (program, name) == ("prunetime", "prune")
    return settings_of(prune.make_context(name, words).params)


def test_every_field_has_values_to_try() -> None:
    assert VALUES.keys() == {each.name for each in fields(Settings)}


@given(settings())
def test_the_command_of_settings_gives_equal_settings(wanted: Settings) -> None:
    assert parse(command(wanted.to_json(), "runs/again")) == wanted


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("query,title", ("query", "title")),
        (" query , title ", ("query", "title")),
        ('"query, or words",title', ("query, or words", "title")),
        ('size 5",title', ('size 5"', "title")),
        ('"say ""x""", " b "', ('say "x"', " b ")),
    ],
)
def test_columns_of_an_option(text: str, names: tuple[str, ...]) -> None:
    assert split_columns(text) == names
    assert split_columns(join_columns(names)) == names


@pytest.mark.parametrize("text", ['"query', '"a"b,c'])
def test_columns_whose_quotes_are_wrong_are_refused(text: str) -> None:
    with pytest.raises(InputError, match='a name with a comma as "a,b"'):
        split_columns(text)
