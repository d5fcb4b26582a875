"""A table of text: what every data source is read into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prunetime.errors import InputError


@dataclass(frozen=True)
class Table:
    """`columns` of equally many values, at least one of each; `name` says where they came from, for messages.

    A null of the source is an empty value; numbers are written as Python writes them.
    """

    name: str
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> list[str]:
        if name not in self.columns:
            raise InputError(f"{self.name} has no column {name!r}; it has {', '.join(self.columns)}")
        return self.columns[name]

    @classmethod
    def of_rows(cls, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        """From `rows` that are each as long as `header`; InputError for no rows or a column name given twice."""
        twice = sorted({column for column in header if header.count(column) > 1})
        if twice:
            raise InputError(f"{name} has column {twice[0]!r} twice; rename one of them")
        if not rows or not header:
            raise InputError(f"{name} has no rows of data; give at least one")
        return cls(name, {column: list(values) for column, values in zip(header, zip(*rows, strict=True), strict=True)})
