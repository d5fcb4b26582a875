"""What the docstrings of the public API lack: those that docs/reference/python.md shows, in Google style.

`python tests/docstrings.py` prints it.
"""

from __future__ import annotations

import logging
import logging.handlers
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "python.md"
SHOWN = re.compile(r"^::: prunetime\.(\S+)\n((?: +\S.*\n)*)", re.MULTILINE)
"""The name of a class or function that the page shows, and under it its options of mkdocstrings."""

REFERENCE = re.compile(r"As `(\w+)\.(\w+)`\.")
"""The docstring of a method that is documented as the method of its name of another class, such as `Client`."""

PARAMETERS, RESULTS = ("parameters", "other parameters", "attributes"), ("returns", "yields")


def faults() -> dict[str, list[str]]:
    """What the docstrings lack, by the name of what they are of. A warning of griffe is a fault."""
    package = griffe.load("prunetime", search_paths=[ROOT / "src"], docstring_parser="google")
    found: dict[str, list[str]] = {}
    for name, written in SHOWN.findall(PAGE.read_text(encoding="utf-8")):
        options = (yaml.safe_load(written) or {}).get("options", {})
        found |= {path: faults_of(each) for path, each in shown_of(package[name], name, options.get("members"))}
    return {path: each for path, each in found.items() if each}


def shown_of(found: Any, name: str, members: list[str] | bool | None) -> Iterator[tuple[str, Any]]:
    """A function, or a class and its `members`: by default its public methods that have a docstring."""
    target = found.final_target if isinstance(found, griffe.Alias) else found
    yield name, target
    if isinstance(target, griffe.Class) and members is not False:
        for each in [target[member] for member in members] if members else target.members.values():
            if members or (isinstance(each, griffe.Function) and each.docstring and each.name[0] != "_"):
                yield f"{name}.{each.name}", each


def faults_of(found: Any) -> list[str]:
    """Parameters and fields without an entry, entries of nothing, a result that is not said, what griffe warns of.

    As Google's style has it, a section Returns may be left out where the docstring begins with the word.
    """
    if found.docstring is None:
        return ["no docstring"]
    if referred := REFERENCE.fullmatch(found.docstring.value):
        return faults_of_reference(found, *referred.groups())
    warnings = logging.handlers.BufferingHandler(1_000)
    logging.getLogger("griffe").addHandler(warnings)
    try:
        sections = found.docstring.parse("google")
    finally:
        logging.getLogger("griffe").removeHandler(warnings)
    entries = {item.name.lstrip("*") for s in sections if s.kind.value in PARAMETERS for item in s.value}
    missing = [record.getMessage() for record in warnings.buffer]
    optional: set[str] = set()
    if isinstance(found, griffe.Class):
        fields = {name: each for name, each in found.members.items() if each.is_attribute and name[0] != "_"}
        wanted = fields.keys() | parameters(found.members.get("__init__"))  # of a dataclass griffe makes one
        optional = {name for name, each in fields.items() if says_itself(each)}
    else:
        wanted = parameters(found)
        returned = str(getattr(found, "returns", None)) not in ("None", "Self")
        said = any(section.kind.value in RESULTS for section in sections)
        if returned and not said and not re.match("(Returns|Yields) ", found.docstring.value):
            missing.append("no section Returns")
    missing += [f"no entry for {name}" for name in sorted(wanted - optional - entries)]
    return missing + [f"an entry for {name}, which is not there" for name in sorted(entries - wanted)]


def faults_of_reference(found: Any, owner: str, name: str) -> list[str]:
    """A reference to itself, to no method, or to one that is called otherwise; or else the faults of the method."""
    referred = found.parent.module.members.get(owner, found.parent).members.get(name)
    if referred is None or referred.parent is found.parent or name != found.name:
        return [f"there is no {found.name} of another class as `{owner}.{name}`"]
    if signature(referred) != signature(found):
        return [f"`{owner}.{name}` has other parameters, or returns something else"]
    return faults_of(referred)


def signature(function: Any) -> list[str]:
    given = [f"{each.kind} {each.name}: {each.annotation} = {each.default}" for each in function.parameters]
    return [*given, str(function.returns)]


def says_itself(field: Any) -> bool:
    """Whether a field is a property, which has a docstring, or a setting that is declared with its help."""
    return "property" in field.labels or str(getattr(field, "value", "")).startswith("option(")


def parameters(function: Any) -> set[str]:
    given = getattr(function, "parameters", ())
    return {each.name for each in given if each.name not in ("self", "cls") and each.name[0] != "_"}


if __name__ == "__main__":
    for name, wrong in faults().items():
        print(f"{name}: {'; '.join(wrong)}")
