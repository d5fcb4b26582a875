"""Checks of single values. Settings that are options of the command line are checked by `core.options.check`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prunetime.errors import InputError


def one_of(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises InputError where `value`, called `name`, is none of `choices`."""
    if value not in (known := tuple(choices)):
        raise InputError(f"{name} is {value!r}; use one of {', '.join(filter(None, known))}")


def whole_number(name: str, value: Any, *, or_none: bool = False) -> None:
    """Raises InputError where `value`, called `name`, is no whole number of at least 1 (nor None, with `or_none`)."""
    if not (or_none and value is None) and (type(value) is not int or value < 1):
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1{', or none' * or_none}")


def true_or_false(name: str, value: Any) -> None:
    """Raises InputError where `value`, called `name`, is no bool."""
    if type(value) is not bool:
        raise InputError(f"{name} is {value!r}; it must be true or false")
