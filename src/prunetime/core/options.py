"""Declares settings once: the command line, the environment, configuration files, recorded runs and reference pages all
read the declaration of a field from its dataclass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from math import inf
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prunetime.errors import InputError

Group = Literal["data", "budget", "structure", "effort", "output", "network", "access", "capacity", "experiments"]
"""The headings under which `--help` lists options."""

_OPTION = "option"


@dataclass(frozen=True)
class Option:
    """An option says how one field of a settings class is given as text.

    Attributes:
        help: A sentence or two for people.
        group: The heading under which it is listed.
        flag: Its name on the command line without dashes, where that is not the name of the field.
        choices: The texts that can be given with the value of each; None where the type of the field says it.
        least: The smallest number that can be given.
        most: The largest one, where there is a smallest, too.
        parse: Makes the value of a text. Of a field that is a dataclass with options of its own, it also takes these as
            keyword arguments: `Budget.parse("1.9ms", batch=8)`.
        write: Makes the text of a value; `parse` reads it back.
    """

    help: str
    group: Group
    flag: str | None = None
    choices: Mapping[str, Any] | None = None
    least: Any = None
    most: Any = None
    parse: Callable[..., Any] | None = None
    write: Callable[[Any], str] = str


@dataclass(frozen=True)
class Declared:
    """A field of a settings class with its option, as `declared` finds it.

    `kind` is the type of one value: `str`, `int`, `float`, `bool` or `Path`. `repeated` says whether the field is a
    tuple whose values are given one by one. `parts` is the dataclass whose own options are arguments of `option.parse`.
    """

    name: str
    option: Option
    kind: type
    default: Any
    repeated: bool
    parts: type | None

    @property
    def flag(self) -> str:
        return self.option.flag or self.name.replace("_", "-")

    @property
    def is_required(self) -> bool:
        return self.default is MISSING


def option(help: str, group: Group, default: Any = MISSING, **more: Any) -> Any:
    """A dataclass field that has an `Option` with these attributes.

    Example:
        >>> @dataclass(frozen=True)
        ... class Settings:
        ...     seq_len: int = option("Tokens of a sequence.", "budget", 128, least=3)
        >>> arguments(Settings(64))
        ['--seq-len', '64']
    """
    return field(default=default, metadata={_OPTION: Option(help, group, **more)})


def declared(settings: Any) -> tuple[Declared, ...]:
    """The options of the dataclass `settings`; a field that is a dataclass without an option is left to `nested`."""
    hints = get_type_hints(settings)
    found = (_declared(each, hints[each.name]) for each in fields(settings) if _OPTION in each.metadata)
    return tuple(found)


def nested(settings: Any) -> dict[str, type]:
    """The fields of `settings` that are dataclasses with options, which are options of `settings` as well."""
    hints = get_type_hints(settings)
    plain = [each.name for each in fields(settings) if _OPTION not in each.metadata]
    return {name: hints[name] for name in plain if is_dataclass(hints[name])}


def every(settings: type) -> Iterator[Declared]:
    """All options of `settings` in the order of declaration, those of the dataclasses in its fields too."""
    for each in declared(settings):
        yield each
        if each.parts:
            yield from every(each.parts)
    for inner in nested(settings).values():
        yield from every(inner)


def made(settings: type, values: Mapping[str, Any]) -> Any:
    """An instance of `settings` from `values` by field name: of every option, as its choices or `parse` left it.

    The value of a field with parts is the text for its `parse`. Raises InputError where the values do not go together.
    """
    return settings(**_given(settings, values))


def _given(settings: type, values: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for each in declared(settings):
        value = values[each.name]
        if each.parts:
            assert each.option.parse is not None
            value = each.option.parse(value, **_given(each.parts, values))
        given[each.name] = value
    return given | {name: made(inner, values) for name, inner in nested(settings).items()}


def arguments(settings: object) -> list[str]:
    """The words of a command line that give every field of `settings`; fields that are None are left out."""
    words: list[str] = []
    for each in declared(type(settings)):
        value = getattr(settings, each.name)
        if value is None or value is False:
            continue
        flag, write = f"--{each.flag}", each.option.write
        if each.kind is bool:
            words.append(flag)
        elif each.repeated:
            words += [word for one in value for word in (flag, write(one))]
        else:
            words += [flag, write(value)]
        if each.parts:
            words += arguments(value)
    return words + [word for name in nested(type(settings)) for word in arguments(getattr(settings, name))]


def check(settings: object) -> None:
    """Raises InputError, with the values that are possible, for the first field of `settings` that is none of them."""
    for each in declared(type(settings)):
        value, limits = getattr(settings, each.name), each.option
        if value is None and each.default is None:
            continue
        if limits.choices is not None and not is_dataclass(value) and value not in limits.choices.values():
            raise InputError(f"{each.name} is {value!r}; it must be one of {', '.join(limits.choices)}")
        if limits.least is None:
            continue
        least, most = limits.least, inf if limits.most is None else limits.most
        types, number = ((int,), "a whole number") if each.kind is int else ((int, float), "a number")
        if type(value) not in types or not least <= value <= most:
            bounds = f"of at least {least:g}" if most == inf else f"from {least:.10g} to {most:.10g}"
            raise InputError(f"{each.name} is {value!r}; it must be {number} {bounds}")


def _declared(each: Field[Any], hint: Any) -> Declared:
    option: Option = each.metadata[_OPTION]
    inner = [argument for argument in get_args(hint) if argument is not type(None)]
    if get_origin(hint) is not None and type(None) in get_args(hint):  # X | None
        hint = Union[tuple(inner)]  # noqa: UP007 (the types are known only here)
    choices = _literals(hint)
    if choices and option.choices is None:
        option = Option(**{**vars(option), "choices": {str(value): value for value in choices}})
    is_many = get_origin(hint) is tuple and get_args(hint)[-1] is ...
    repeated = is_many and option.parse is None
    has_parts = is_dataclass(hint) and option.choices is None
    kind = hint if hint in (bool, int, float, Path) else str
    return Declared(each.name, option, kind, each.default, repeated, hint if has_parts else None)


def _literals(hint: Any) -> tuple[Any, ...]:
    """The values of a Literal, also of a union of several; none where `hint` is anything else."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    parts = [_literals(each) for each in get_args(hint)]
    return tuple(value for part in parts for value in part) if parts and all(parts) else ()
