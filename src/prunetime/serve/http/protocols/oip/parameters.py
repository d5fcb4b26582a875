"""Checks the parameters of requests, inputs and outputs of the Open Inference Protocol.

Known parameters are honoured. Others, and values that would need what the server does not have, are refused by name.
Null is as if a parameter were not given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunetime.serve.errors import RefusedError

Parameters = Mapping[str, Any]

REQUEST = ("binary_data_output", "timeout", "priority", "sequence_id", "sequence_start", "sequence_end")
INPUT = ("binary_data_size", "content_type")
OUTPUT = ("binary_data", "classification")

ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "priority": ((0,), "requests have no priorities"),
    "sequence_id": ((0, ""), "models keep no state between requests"),
    "sequence_start": ((False,), "models keep no state between requests"),
    "sequence_end": ((False,), "models keep no state between requests"),
    "content_type": (("str",), "texts are strings in UTF-8"),
}
"""The values that change nothing, which are the only ones a parameter may have, and why."""


def check_parameters(of: str, known: Sequence[str], parameters: Parameters | None) -> Parameters:
    """Returns the given parameters. Raises RefusedError for one that is not `known`, or whose value cannot be honoured.
    `of` says whose they are, for the message."""
    given = {name: value for name, value in (parameters or {}).items() if value is not None}
    if unknown := sorted(given.keys() - set(known)):
        only = f", only {', '.join(known)}" if known else ""
        raise RefusedError("unusable", f"{of}: no parameter {', '.join(unknown)[:200]} is known{only}; leave it out")
    for name, (values, why) in ONLY.items():
        if name in given and given[name] not in values:
            raise RefusedError("unusable", f"{of}: {name} is {str(given[name])[:80]!r}: {why}; leave it out")
    return given


def seconds_of(parameters: Parameters) -> float | None:
    """The seconds of a request's `timeout`. Raises RefusedError where it is no whole number."""
    microseconds = whole_number("the request", "timeout", parameters)
    return 1e-6 * microseconds if microseconds else None


def flag(of: str, name: str, parameters: Parameters) -> bool | None:
    """The boolean parameter `name`; None where it is not given. Raises RefusedError where it is not true or false."""
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise RefusedError("unusable", f"{of}: {name} is {str(value)[:80]!r}: it must be true or false")
    return value


def whole_number(of: str, name: str, parameters: Parameters) -> int | None:
    """The parameter `name`; None where it is not given. Raises RefusedError where it is no whole number from 0."""
    value = parameters.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise RefusedError("unusable", f"{of}: {name} is {str(value)[:80]!r}: it must be a whole number, 0 or more")
    return value
