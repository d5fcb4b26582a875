"""The three roles of data: train fits, valid chooses, test is read once. Groups never straddle roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from prunetime.core.arrays import BoolArray, Float64Array, Int64Array
from prunetime.errors import InputError
from prunetime.tasks.data import Examples, normalized, stable_hash

MIN_ROWS = 8
"""A role with fewer rows can neither fit, nor choose, nor be believed."""


@dataclass(frozen=True)
class Roles:
    """`warnings` are sentences about groups and rows that two roles share."""

    train: Examples
    valid: Examples
    test: Examples
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slice:
    """Rows of a role: those with `value` in `column`, or, with None, those whose value no train row has."""

    name: str
    column: str
    value: str | None

    def select(self, role: Examples, train: Examples) -> Examples:
        """The examples of the slice; InputError when there are none."""
        seen = set(train.column(self.column)) if self.value is None else set()
        values = role.column(self.column)
        kept = [value not in seen if self.value is None else value == self.value for value in values]
        if not any(kept):
            raise InputError(f"slice {self.name}: none of the {len(role)} rows of {role.table.name} is in it")
        return role.select(np.array(kept))


def parse_slice(text: str) -> Slice:
    """`unseen:COLUMN` or `COLUMN=VALUE`."""
    if text.startswith("unseen:") and len(text) > len("unseen:"):
        return Slice(text, text.removeprefix("unseen:"), None)
    column, equals, value = text.partition("=")
    if not (column and equals):
        raise InputError(f"slice {text!r}: write unseen:COLUMN or COLUMN=VALUE")
    return Slice(text, column, value)


def group_hash_split(groups: Int64Array, share: float, seed: int) -> BoolArray:
    """True for the rows, [rows], of about `share` of the groups.

    Whether a group is chosen depends on its id, `share` and `seed` alone: not on the order nor on other rows. What
    a smaller share chooses, a larger one chooses too.
    """
    return _positions(groups, seed) < share


def whole_groups(groups: Int64Array, rows: int, seed: int) -> Int64Array:
    """Indices, ascending, of the rows of randomly drawn groups: as many groups as fit into `rows`, at least one."""
    ids = np.random.default_rng(seed).permutation(np.unique(groups))
    counts = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    total = np.cumsum([counts[group] for group in ids])
    drawn = ids[: max(1, int(np.searchsorted(total, rows, side="right")))]
    return np.flatnonzero(np.isin(groups, drawn))


def split_roles(train: Examples, valid: Examples | None, test: Examples | None, seed: int) -> Roles:
    """The three roles; what is not given is split off by group.

    From train alone: 80/10/10. With valid and no test: half of valid's groups are test. With test and no valid: a
    tenth of train's groups is valid. Raises InputError where a role has fewer than `MIN_ROWS` rows, one group or one
    label only.
    """
    split = valid is None or test is None
    if valid is None:
        position, tenth = _positions(train.groups, seed), 0.0
        if test is None:
            test, tenth = train.select(position < 0.1), 0.1
        chosen = (position >= tenth) & (position < tenth + 0.1)
        train, valid = train.select(position >= tenth + 0.1), train.select(chosen)
    elif test is None:
        chosen = group_hash_split(valid.groups, 0.5, seed)
        valid, test = valid.select(~chosen), valid.select(chosen)
    named = {"train": train, "valid": valid, "test": test}
    for name, role in named.items():
        _check_role(f"{name} (after the split by group)" if split else name, role)
    return Roles(train, valid, test, _shared(named))


def _positions(groups: Int64Array, seed: int) -> Float64Array:
    """Where each row's group lies between 0 and 1, [rows]."""
    unique, inverse = np.unique(groups, return_inverse=True)
    return np.array([stable_hash(f"{seed} {group}") / 2**64 for group in unique])[inverse]


def _check_role(name: str, role: Examples) -> None:
    groups = len(np.unique(role.groups))
    if len(role) < MIN_ROWS or groups < 2:
        raise InputError(
            f"{name} has {len(role)} rows in {groups} groups; it needs at least {MIN_ROWS} rows in 2 groups: "
            "give more data, a finer --group, or the roles themselves with --valid and --test"
        )
    if role.labelled and len(np.unique(role.labels)) < 2:
        raise InputError(f"{name} has {len(role)} rows of one label only; give more data")


def unlearnable(roles: Roles, labels: Sequence[str]) -> tuple[str, ...]:
    """A sentence on every one of several labels [rows, labels] that rows of valid or test have, and none of train."""
    lacks = ~roles.train.labels.any(axis=0)
    return tuple(
        f"No row of train has the label {labels[number]!r}, which rows of {name} have."
        for name, role in (("valid", roles.valid), ("test", roles.test))
        for number in np.flatnonzero(role.labels.any(axis=0) & lacks).tolist()
    )


def _shared(roles: dict[str, Examples]) -> tuple[str, ...]:
    warnings = []
    for (name_a, a), (name_b, b) in combinations(roles.items(), 2):
        if b.group is not None:
            ids = np.unique(b.groups)
            shared = np.isin(ids, a.groups)
            if shared.any():
                example = b.column(b.group)[int(np.flatnonzero(b.groups == ids[shared][0])[0])]
                warnings.append(
                    f"Leakage: {int(shared.sum())} of the {len(ids)} groups ({b.group}) of {name_b} are also in "
                    f"{name_a}, such as {example!r}; {name_b} will flatter the model."
                )
        texts = {tuple(map(normalized, row)) for row in a.texts}
        twice = sum(tuple(map(normalized, row)) in texts for row in b.texts)
        if twice:
            warnings.append(f"{twice} of the {len(b)} rows of {name_b} have the texts of a row of {name_a}.")
    return tuple(warnings)
