"""The command that makes a run again, written from the settings that the run recorded."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from prunetime.core.budget import Budget
from prunetime.tasks.table import join_columns

Arguments = list[str]


def command(settings: Mapping[str, Any], out: str) -> str:
    """The `prunetime prune` command with these settings, a `Settings.to_json()`; each of them is written.

    `settings_of` of `prunetime.cli.runs` reads it back.
    """
    arguments = [word for name, value in settings.items() for word in _written(name, value)]
    return shlex.join(["prunetime", "prune", *arguments, "--out", out])


def _written(name: str, value: Any) -> Arguments:
    if value is None:
        return []
    return _WRITERS[name](value) if name in _WRITERS else _option(name, value)


def _option(name: str, value: Any) -> Arguments:
    """An option called as the field is; a flag, where the field is true or false."""
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option] if value else []
    return [option, str(value)]


def _budget(value: Mapping[str, Any]) -> Arguments:
    amount = Budget.from_json(value).amount
    setting = [word for name, each in value.items() if name not in ("us", "share") for word in _option(name, each)]
    return ["--latency", amount, *setting]


_WRITERS: Mapping[str, Callable[[Any], Arguments]] = {
    "budget": _budget,
    "text": lambda names: ["--text", join_columns(names)],
    "slices": lambda names: [word for name in names for word in ("--slice", name)],
    "effort": lambda effort: ["--effort", effort["name"]],
    "blocks": lambda block_shape: ["--blocks", "x".join(map(str, block_shape))],
}
"""The fields whose options have another name or form than the field."""
