"""Dataclasses as JSON objects, with a key for each field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from prunetime.errors import InputError

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record:
    """A dataclass that is an object in JSON."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls: type[R], data: Mapping[str, Any]) -> R:
        """The record that `to_json` wrote; raises InputError on a key that is no field, or one missing."""
        return cls(**strict_keys(cls, data))


def strict_keys(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """`data` as keyword arguments of the dataclass `cls`; raises InputError on a key it has not, or one missing."""
    if not isinstance(data, Mapping):
        raise InputError(f"{cls.__name__}: got {data!r}, expected an object")
    known = {item.name for item in fields(cls)}
    required = {item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING}
    if unknown := sorted(set(data) - known):
        raise InputError(f"{cls.__name__}: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    if missing := sorted(required - set(data)):
        raise InputError(f"{cls.__name__}: {', '.join(missing)} missing")
    return dict(data)
