"""Options of the commands: those of settings come from their declaration (`core.options`), and several commands share
the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from prunetime.core.budget import Budget
from prunetime.core.options import Declared, Group, every
from prunetime.errors import InputError
from prunetime.latency.settings import TimingSettings
from prunetime.settings import Settings
from prunetime.tasks.table import join_columns

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Decorator = Callable[[Decorated], Decorated]


class GroupedOption(click.Option):
    """An option that `--help` lists under a heading."""

    def __init__(self, *given: Any, group: Group, **attributes: Any) -> None:
        super().__init__(*given, **attributes)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose `--help` lists its options by group."""

    def get_help_option_names(self, _: click.Context) -> list[str]:
        """The names of `main`, also in a call without it: click keeps the names that it was asked for first."""
        return ["-h", "--help"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in (*get_args(Group), None):
            shown = [each for each in self.get_params(ctx) if getattr(each, "group", None) == group]
            records = [record for each in shown if (record := each.get_help_record(ctx))]
            if records:
                with formatter.section(f"{group.capitalize()} options" if group else "Options"):
                    formatter.write_dl(records)


def grouped(group: Group, *names: str, **attributes: Any) -> Decorator[Any]:
    """An option that is no setting, listed under the heading of `group`."""
    return click.option(*names, cls=GroupedOption, group=group, **attributes)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object, last.")
overwrite_option = grouped(
    "output",
    "--overwrite",
    is_flag=True,
    help="Start afresh where --out is a run already: what it made is removed, and nothing else.",
)
overwrite_file_option = click.option("--overwrite", is_flag=True, help="Write over a file that is there.")
workers_option = grouped(
    "effort",
    "--workers",
    type=click.IntRange(1),
    help="Score candidates (8 a generation) on so many Ray actors, here or on the cluster of RAY_ADDRESS.",
)
artifact_argument = click.argument("artifact", type=click.Path(path_type=Path))
run_argument = click.argument("run", type=click.Path(path_type=Path))


def settings_options(
    settings: type = Settings, only: Collection[str] = (), plain: bool = False, envvar_prefix: str | None = None
) -> Decorator[Any]:
    """The options of the dataclass `settings`, or `only` those of some fields; `plain` ones are under no heading.

    With an `envvar_prefix`, the environment variable of each is that with its name, and `--help` shows it.
    """
    chosen = [each for each in every(settings) if not only or each.name in only]

    def decorate(command: Any) -> Any:
        for each in reversed(chosen):
            envvar = None if envvar_prefix is None else envvar_prefix + each.flag.replace("-", "_").upper()
            command = _click_option(each, plain, envvar)(command)
        return command

    return decorate


timed_options = settings_options(Budget, ("seq_len", "batch", "threads"), plain=True)
"""The options of what is timed: sequence length, batch and threads."""

timing_options = settings_options(TimingSettings, ("profile_calls", "retry_seconds"), plain=True)


def _click_option(declared: Declared, plain: bool, envvar: str | None) -> Decorator[Any]:
    option = declared.option
    attributes: dict[str, Any] = {"help": option.help, "required": declared.is_required}
    if envvar is not None:
        attributes |= {"envvar": envvar, "show_envvar": True}
    if not plain:
        attributes |= {"cls": GroupedOption, "group": option.group}
    if declared.kind is bool:
        attributes["is_flag"] = True
    elif option.choices is not None:
        choices = option.choices
        attributes |= {"type": click.Choice(list(choices)), "callback": lambda *given: choices.get(given[2])}
    elif declared.kind is int:
        attributes["type"] = click.IntRange(option.least, option.most)
    elif declared.kind is float:
        attributes["type"] = click.FloatRange(option.least, option.most)
    elif declared.kind is Path:
        attributes["type"] = click.Path(path_type=Path)
    elif option.parse and not declared.parts:
        parse = option.parse
        attributes["callback"] = lambda *given: None if given[2] is None else parse(given[2])
    if declared.repeated:
        attributes["multiple"] = True
    elif not declared.is_required and declared.default is not None:
        attributes["default"] = option.write(declared.default) if declared.kind is str else declared.default
    return click.option(f"--{declared.flag}", declared.name, **attributes)


def _from_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Has the values of a TOML file stand in for options that are not given."""
    if path is None:
        return
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}") from error
    options = {option: each for each in ctx.command.params for option in each.opts if option != "--config"}
    known = {option.removeprefix("--"): each for option, each in options.items() if option.startswith("--")}
    names = {name: name.replace("_", "-") for name in values}
    unknown = sorted(name for name, flag in names.items() if flag not in known)
    if unknown:
        raise InputError(f"{path}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    ctx.default_map = {known[flag].name: _as_given(values[name], known[flag]) for name, flag in names.items()}


def _as_given(value: Any, parameter: click.Parameter) -> Any:
    """A value of TOML as the command line would have it: a list of columns is one text."""
    if not isinstance(value, list) or parameter.multiple:
        return value
    if parameter.name not in ("text", "label"):
        raise InputError(f"{parameter.opts[0]} is {value!r} in the configuration: it takes one value, and no list")
    return join_columns(value)


config_option = grouped(
    "output",
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_from_file,
    help="A TOML file of options (seq-len = 48); those given here or in the environment come first.",
)


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
