"""The page docs/reference/inputs.md, section by section: what every field of a file that we read does.

A test makes the rows of its section by changing one field at a time and comparing with the library that defines the
file (`verdict`), and then calls `check_section`. `PRUNETIME_WRITE_DOCS=1 pytest TEST` writes the section again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from prunetime.errors import InputError

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "inputs.md"

Verdict = Literal["honoured", "refused", "changes no number"]


class Row(NamedTuple):
    """One field of a file. `values` are the values that were tried, as the page shows them."""

    file: str
    field: str
    values: str
    verdict: Verdict


def verdict(field: str, ours: Callable[[], object], changed: bool, equal: Callable[[object], bool]) -> Verdict:
    """What we do with a value of `field`.

    Args:
        ours: gives our numbers with that value.
        changed: whether the library's own numbers with that value differ from those without it.
        equal: whether our numbers are the library's.

    Raises AssertionError where our numbers are not the library's, or a refusal does not name the field.
    """
    try:
        numbers = ours()
    except InputError as error:
        if field.rpartition(".")[2] not in str(error):
            raise AssertionError(f"{field} is refused without its name") from error
        return "refused"
    assert equal(numbers), f"{field} is neither honoured nor refused"
    return "honoured" if changed else "changes no number"


def section(title: str, introduction: str, rows: Sequence[Row]) -> str:
    """A section of the page, from its heading to the end of its table."""
    lines = [f"## {title}", "", introduction, "", "| file | field | values tried | |", "|---|---|---|---|"]
    lines += [f"| `{row.file}` | `{row.field}` | {row.values} | {row.verdict} |" for row in rows]
    return "\n".join(lines) + "\n"


def check_section(title: str, introduction: str, rows: Sequence[Row]) -> None:
    """Compares the section `title` of the page with `rows`, or writes it where PRUNETIME_WRITE_DOCS is set."""
    wanted = section(title, introduction, rows)
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    if os.environ.get("PRUNETIME_WRITE_DOCS"):
        start, end = found.span() if found else (len(page), len(page))
        parts = [page[:start].rstrip("\n"), wanted.rstrip("\n"), page[end:].strip("\n")]
        PAGE.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
        return
    assert found, f"{PAGE.name} has no section {title!r}: PRUNETIME_WRITE_DOCS=1 writes it"
    assert found[0].rstrip("\n") + "\n" == wanted, f"{PAGE.name}, {title!r}: PRUNETIME_WRITE_DOCS=1 writes it again"
