"""Settings are declared once: the command that a report shows, options, the environment and a file make them again."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from prunetime.cli import main
from prunetime.cli.runs import prune
from prunetime.core.arch import BLOCK_SHAPES
from prunetime.core.budget import Budget, Condition, ShareOf, Statistic, TimingScope
from prunetime.core.effort import EFFORTS, Effort, RunPlan
from prunetime.core.options import every
from prunetime.core.precision import PRECISIONS
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.latency.settings import TimingSettings
from prunetime.pruning.methods import Criterion, PruningMethod
from prunetime.settings import AUTO, Settings
from prunetime.tasks.table import join_columns, split_columns

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
COUNTS = st.integers(1, 4096)
SECONDS = st.floats(0.0, allow_nan=False, allow_infinity=False)
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
BUDGETS |= st.builds(Budget, us=st.none(), share=st.just(0.4), share_of=st.sampled_from(get_args(ShareOf)))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("model", "data"), NAMES),
    "budget": BUDGETS,
    **dict.fromkeys(("valid", "test", "label", "group", "metric"), st.none() | NAMES),
    "text": st.none() | st.lists(NAMES, min_size=1, max_size=3).map(tuple),
    "task": st.none() | st.sampled_from(get_args(TaskKind)),
    "doc_stride": st.none() | st.integers(0, 4096),
    "slices": st.lists(NAMES, max_size=3).map(tuple),
    "beside": st.lists(NAMES, max_size=3, unique=True).map(tuple),
    **dict.fromkeys(("teacher_ready", "tokens"), st.booleans()),
    "seed": st.integers(0, 2**31 - 1),
    "effort": st.sampled_from(list(EFFORTS.values()))
    | st.builds(Effort, st.floats(0.01, 1e6))
    | st.builds(RunPlan, *[NAMES, *[st.integers(1, 10**6)] * 14, st.integers(0, 20)]),
    "precision": st.sampled_from((*PRECISIONS, AUTO)),
    "max_loss": st.floats(0.0, 1.0, exclude_max=True),
    "importance": st.sampled_from(get_args(Criterion)),
    "blocks": st.none() | st.sampled_from(BLOCK_SHAPES),
    "method": st.sampled_from(get_args(PruningMethod)),
    "timing": st.builds(
        TimingSettings,
        verify_seconds=SECONDS,
        verify_rounds=st.integers(2, 4096),
        verify_calls=COUNTS,
        profile_calls=COUNTS,
        retry_seconds=SECONDS,
    ),
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
    return Settings.of_options(prune.make_context(name, words).params)


def test_every_field_has_values_to_try() -> None:
    assert VALUES.keys() == {each.name for each in fields(Settings)}


@given(settings())
def test_the_command_of_settings_gives_equal_settings(wanted: Settings) -> None:
    assert parse(wanted.command("runs/again")) == wanted


GIVEN = ("--model", "bert", "--data", "ads.tsv", "--latency", "40%", "--out", "run")


def of_prune(*words: str) -> Settings:
    return Settings.of_options(prune.make_context("prune", list(words)).params)


def test_settings_that_are_not_given_are_the_usual_ones() -> None:
    assert of_prune(*GIVEN) == Settings("bert", "ads.tsv", Budget(share=0.4))


def test_a_file_gives_what_the_command_line_and_the_environment_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        """model = "bert"
data = "ads.tsv"
latency = "1.9ms"
out = "run"
text = ["query, or words", "title"]
slice = ["unseen:uid", "brand=x"]
seq-len = 48
batch = 4
threads = 2
tokens = true
blocks = "16x16"
effort = "quick"
verify_rounds = 8
"""
    )
    monkeypatch.setenv("PRUNETIME_PRUNE_BATCH", "8")
    monkeypatch.setenv("PRUNETIME_PRUNE_THREADS", "3")
    context = main.make_context("prunetime", ["prune", "--config", str(file), "--threads", "4"])
    _, command, words = context.command.resolve_command(context, ["prune", "--config", str(file), "--threads", "4"])
    found = Settings.of_options(command.make_context("prune", words, parent=context).params)
    budget = Budget.ms(1.9, seq_len=48, batch=8, threads=4)
    assert found == Settings(
        "bert",
        "ads.tsv",
        budget,
        text=("query, or words", "title"),
        slices=("unseen:uid", "brand=x"),
        tokens=True,
        blocks=(16, 16),
        effort=EFFORTS["quick"],
        timing=TimingSettings(verify_rounds=8),
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seqlen = 48", r"unknown seqlen; known are .*seq-len"),
        ("seq-len =", "cannot read the configuration"),
        ("seq-len = 'long'", "'long' is not a valid integer range"),
        ("model = ['a', 'b']", "--model is .* in the configuration: it takes one value"),
        ("precision = 'fp8'", "'fp8' is not one of 'fp32'"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "run.toml").write_text(content)
    done = CliRunner().invoke(main, ["prune", *GIVEN, "--config", str(tmp_path / "run.toml")])
    assert done.exit_code == 2
    assert re.search(said, done.stderr), done.stderr


def test_help_lists_options_by_group() -> None:
    text = CliRunner().invoke(main, ["prune", "--help"]).stdout
    headings = re.findall(r"^(\w+ options|Options):$", text, re.MULTILINE)
    groups = [f"{group} options" for group in ("Data", "Budget", "Structure", "Effort", "Output")]
    assert headings == [*groups, "Options"]
    for each in every(Settings):
        assert f"--{each.flag}" in text


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'; it must be one of fp32, bf16, int8, auto"),
        ({"blocks": (8, 8)}, r"blocks is \(8, 8\); it must be one of 32x32, 32x16, 16x16, 32x1"),
        ({"seed": True}, "seed is True; it must be a whole number from 0 to 2147483647"),
        ({"max_loss": -0.1}, "max_loss is -0.1; it must be a number from 0 to 1"),
        ({"doc_stride": 1.5}, "doc_stride is 1.5; it must be a whole number of at least 0"),
    ],
)
def test_a_value_that_cannot_be_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Settings("bert", "ads.tsv", Budget(share=0.4), **wrong)


def test_recorded_settings_are_read_again() -> None:
    usual = Settings("bert", "ads.tsv", Budget(share=0.4))
    assert "timing" not in usual.to_json()  # as in the runs of versions that had none
    longer = replace(usual, timing=TimingSettings(verify_seconds=120.0))
    for settings in (usual, longer):
        assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


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
