"""What the docstrings of the public API lack: those that docs/reference/python.md shows, in Google style.

`python tests/docstrings.py` takes the names that lack nothing by now off tests/unwritten_docstrings.txt.
"""

from __future__ import annotations

import logging
import logging.handlers
import re
from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "python.md"
UNWRITTEN = Path(__file__).parent / "unwritten_docstrings.txt"
"""Names whose docstrings lack a section still. The list only gets shorter."""

PARAMETERS, RESULTS = ("parameters", "other parameters", "attributes"), ("returns", "yields")


def faults() -> dict[str, list[str]]:
    """What the docstrings lack, by the name of what they are of. A warning of griffe is a fault."""
    package = griffe.load("prunetime", search_paths=[ROOT / "src"], docstring_parser="google")
    names = re.findall(r"(?m)^::: prunetime\.(\S+)", PAGE.read_text(encoding="utf-8"))
    shown = ((path, each) for name in names for path, each in shown_of(package[name], name))
    return {path: found for path, each in shown if (found := faults_of(each))}


def shown_of(found: griffe.Object | griffe.Alias, name: str) -> Iterator[tuple[str, griffe.Object]]:
    """A function, or a class and those of its public methods that have a docstring: only these are on the page."""
    target = found.final_target if isinstance(found, griffe.Alias) else found
    yield name, target
    if isinstance(target, griffe.Class):
        for each in target.members.values():
            if isinstance(each, griffe.Function) and each.docstring and each.name[0] != "_":
                yield f"{name}.{each.name}", each


def faults_of(found: griffe.Object) -> list[str]:
    """Parameters and fields without an entry, entries of nothing, a result without a section, what griffe warns of."""
    if found.docstring is None:
        return ["no docstring"]
    warnings = logging.handlers.BufferingHandler(1_000)
    logging.getLogger("griffe").addHandler(warnings)
    try:
        sections = found.docstring.parse("google")
    finally:
        logging.getLogger("griffe").removeHandler(warnings)
    entries = {item.name.lstrip("*") for s in sections if s.kind.value in PARAMETERS for item in s.value}
    missing = [record.getMessage() for record in warnings.buffer]
    if isinstance(found, griffe.Class):
        fields = {name: each for name, each in found.members.items() if each.is_attribute and name[0] != "_"}
        wanted = fields.keys() | parameters(found.members.get("__init__"))  # of a dataclass griffe makes one
        wanted -= {name for name, each in fields.items() if says_itself(each)}
    else:
        wanted = parameters(found)
        returns = str(getattr(found, "returns", None))
        if returns not in ("None", "Self") and not any(section.kind.value in RESULTS for section in sections):
            missing.append("no section Returns")
    missing += [f"no entry for {name}" for name in sorted(wanted - entries)]
    return missing + [f"an entry for {name}, which is not there" for name in sorted(entries - wanted)]


def says_itself(field: griffe.Object | griffe.Alias) -> bool:
    """Whether a field is a property, which has a docstring, or a setting that is declared with its help."""
    return "property" in field.labels or str(getattr(field, "value", "")).startswith("option(")


def parameters(function: griffe.Object | griffe.Alias | None) -> set[str]:
    given = getattr(function, "parameters", ())
    return {each.name for each in given if each.name not in ("self", "cls") and each.name[0] != "_"}


if __name__ == "__main__":
    wrong = faults()
    left = [name for name in UNWRITTEN.read_text(encoding="utf-8").split() if name in wrong]
    UNWRITTEN.write_text("".join(f"{name}\n" for name in left), encoding="utf-8")
    for name in wrong:
        print(f"{name}: {'; '.join(wrong[name])}")
