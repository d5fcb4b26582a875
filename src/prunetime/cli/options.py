"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from prunetime.core.arch import BLOCK_SHAPES
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.tasks.table import split_columns

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last.")
text_option = click.option("--text", help="Text column, or two separated by a comma. Guessed when unambiguous.")
label_option = click.option("--label", help="Label column. Guessed when unambiguous.")
group_option = click.option("--group", help="Column whose equal values stay together when data is split.")
task_option = click.option(
    "--task",
    type=click.Choice(get_args(TaskKind)),
    help="Kind of task; by default what the labels say. similarity: pairs whose texts are embedded apart.",
)
metric_option = click.option("--metric", help="auc, pr_auc, accuracy, f1, mcc, spearman, ndcg@10, mrr, exact, ...")
doc_stride_option = click.option(
    "--doc-stride",
    type=click.IntRange(0),
    help="Tokens that windows of a long context share, for question answering. By default 128, or half of --seq-len.",
)
slice_option = click.option(
    "--slice", "slices", multiple=True, help="Also report on a part: unseen:COLUMN or COLUMN=VALUE."
)
latency_option = click.option(
    "--latency", required=True, help="The budget: 1.9ms, 1900us, or a share of the dense model such as 40%."
)
overwrite_option = click.option(
    "--overwrite",
    is_flag=True,
    help="Start afresh where --out is a run already: what it made is removed, and nothing else.",
)
overwrite_file_option = click.option("--overwrite", is_flag=True, help="Write over a file that is there.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    help="Score candidates (8 a generation) on so many Ray actors, here or on the cluster of RAY_ADDRESS.",
)
artifact_argument = click.argument("artifact", type=click.Path(path_type=Path))
run_argument = click.argument("run", type=click.Path(path_type=Path))


def setting_options(command: Command) -> Command:
    """Sequence length, batch and threads of what is timed."""
    for option in (
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the engine."),
        click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences in a call."),
        click.option("--seq-len", type=click.IntRange(3), default=128, show_default=True, help="Tokens per sequence."),
    ):
        command = option(command)
    return command


def judged_options(command: Command) -> Command:
    """Which latency the budget is about."""
    for option in (
        click.option("--scope", type=click.Choice(["ids", "text"]), help="From token ids (default), or from text."),
        click.option("--statistic", type=click.Choice(["p50", "p99"]), help="p50 by default."),
        click.option(
            "--condition", type=click.Choice(["hot", "idle"]), help="Back to back (default), or after a pause."
        ),
    ):
        command = option(command)
    return command


def blocks_option(what: str) -> Callable[[Command], Command]:
    """A size of blocks, as (rows, columns)."""
    sizes = {f"{rows}x{columns}": (rows, columns) for rows, columns in BLOCK_SHAPES}
    chosen = click.Choice(list(sizes))
    return click.option("--blocks", type=chosen, callback=lambda *args: sizes.get(args[2]), help=what)


def check_new(*files: Path, overwrite: bool) -> None:
    """Raises InputError where one of `files` is there and not to be written over, or cannot be written."""
    for file in files:
        if file.is_dir():
            raise InputError(f"{file} is a folder: choose another --out, or remove it")
        if file.exists() and not overwrite:
            raise InputError(f"{file} exists: choose another --out, or --overwrite")
        folder = next(each for each in file.absolute().parents if each.exists())
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(f"cannot write {file}: {folder} is no folder that can be written; choose another --out")


def columns_of(text: str | None) -> tuple[str, ...] | None:
    """The names in a `--text` option; None where there is none."""
    return split_columns(text) if text else None
