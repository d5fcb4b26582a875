"""A table of text: what every data source is read into."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prunetime.errors import InputError

QUOTE = '"'

_PLAIN_NAME = re.compile(r'[^\s,"](?:[^,\n]*[^\s,])?')
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|((?:[^\s",][^,]*?)?))\s*(?=,|\Z)')
"""A name with the blanks around it, up to the next comma or the end: in quotes, or as it is."""


@dataclass(frozen=True)
class Table:
    """`columns` of equally many values, at least one of each; `name` says where they came from, for messages.

    A null of the source is an empty value; numbers are written as Python writes them. Whole numbers in a column of
    `class_names` are classes that have these names, in order; `names_from` says who said so, for messages.
    """

    name: str
    columns: dict[str, list[str]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    names_from: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> list[str]:
        if name not in self.columns:
            raise InputError(f"{self.name} has no column {name!r}; it has {', '.join(self.columns)}")
        return self.columns[name]

    def with_class_names(self, class_names: Mapping[str, tuple[str, ...]], names_from: str) -> Table:
        """The table with `class_names` of its columns, unless it has some already."""
        own = {column: names for column, names in class_names.items() if column in self.columns}
        return replace(self, class_names=own, names_from=names_from) if own and not self.class_names else self

    @classmethod
    def of_rows(cls, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        """From `rows` that are each as long as `header`; InputError for no rows or a column name given twice."""
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise InputError(f"{name} has column {twice[0]!r} twice; rename one of them")
        if not rows or not header:
            raise InputError(f"{name} has no rows of data; give at least one")
        return cls(name, {column: list(values) for column, values in zip(header, zip(*rows, strict=True), strict=True)})


def parse_json(text: str, where: str, expected: str, **options: Any) -> Any:
    """The JSON of `text`, with `options` of `json.loads`; raises InputError where it is none that can be written."""
    try:
        content = json.loads(text, **options)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: {error.reason} (half of a surrogate pair); remove it") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); {expected}") from error
    return content


def join_columns(names: Sequence[str]) -> str:
    """Column names as one option: `query,title`. A name that cannot stand so is in double quotes, as in CSV."""
    return ",".join(name if _PLAIN_NAME.fullmatch(name) else f'"{name.replace(QUOTE, 2 * QUOTE)}"' for name in names)


def split_columns(text: str) -> tuple[str, ...]:
    """The column names that an option gives, blanks around them left out; `join_columns` writes it.

    Raises InputError where a quote is not closed or something follows one that is.
    """
    names, end = [], -1
    while end < len(text):
        match = _NAME.match(text, end + 1)
        if match is None:
            raise InputError(f'columns {text!r}: write names as a,b and a name with a comma as "a,b"')
        names.append(match[2] if match[1] is None else match[1].replace(2 * QUOTE, QUOTE))
        end = match.end()
    return tuple(names)
