"""Tagging schemes: how the labels of words mark spans, and which spans a sequence of labels marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

OUTSIDE = "O"
"""The label of words that are part of nothing."""

Role = Literal["begin", "inside", "end", "single"]

_LETTERS: dict[Role, str] = {"begin": "B", "inside": "IM", "end": "EL", "single": "SUW"}
ROLES = {letter: role for role, letters in _LETTERS.items() for letter in letters}
"""The letters of IOB1, IOB2, IOE1, IOE2, BIOES, BILOU and BMEWO, and the word of a span that each is for."""

SCHEMES = {"I": "IO", "B": "IOB", "BI": "IOB", "IE": "IOE", "BIES": "BIOES", "BILU": "BILOU", "BMEW": "BMEWO"}
"""Names of schemes, where they are not just their letters, by these in the order of `ROLES`."""

FORMS = {
    "-prefix": r"(?P<letter>[BIMELSUW])-(?P<name>.+)",
    "_prefix": r"(?P<letter>[BIMELSUW])_(?P<name>.+)",
    "-suffix": r"(?P<name>.+)-(?P<letter>[BIMELSUW])",
    "_suffix": r"(?P<name>.+)_(?P<letter>[BIMELSUW])",
    "letter": r"(?P<letter>[BIMELSUW])(?P<name>)",
}
"""How a label is written: B-PER, B_PER, PER-B, PER_B, or B alone where all spans are of one kind."""

NAMELESS = "_"
"""The name of spans whose labels are a letter alone, as seqeval calls them."""


class Tag(NamedTuple):
    """A label in parts: the word's role in a span, the letter that says so, and the span's name. A name alone is a
    span of one word, without a letter."""

    role: Role
    letter: str
    name: str


@dataclass(frozen=True)
class TagScheme:
    """How labels are written: a key of `FORMS`, and the letters that occur. Other labels are names alone."""

    form: str = "-prefix"
    letters: str = "BI"

    def parse(self, label: str) -> Tag | None:
        """The parts of a label; None for `O`."""
        if label == OUTSIDE:
            return None
        found = re.fullmatch(FORMS[self.form], label, re.DOTALL)
        if found is None or found["letter"] not in self.letters:
            return Tag("single", "", label)
        return Tag(ROLES[found["letter"]], found["letter"], found["name"] or NAMELESS)

    def spans(self, labels: Sequence[str]) -> list[tuple[str, int, int]]:
        """(name, first word, last word) of every span that the `labels` of consecutive words mark.

        A span ends before a word that begins one, after a word that ends one, and where the name changes. So what no
        scheme allows, such as an I- that nothing begins, is read as the script of CoNLL-2000 (`conlleval`) reads it,
        and as seqeval does by default.
        """
        found: list[tuple[str, int, int]] = []
        before: Tag | None = None
        for word, label in enumerate(labels):
            tag = self.parse(label)
            if tag is not None:
                may_go_on = before is not None and before.name == tag.name and before.role in ("begin", "inside")
                if may_go_on and tag.role in ("inside", "end"):
                    found[-1] = (tag.name, found[-1][1], word)
                else:
                    found.append((tag.name, word, word))
            before = tag
        return found

    def __str__(self) -> str:
        """For messages, such as "BIOES (B-, I-, E-, S- before the name)"."""
        if not self.letters:
            return "names alone, every word a span of its own"
        name = SCHEMES.get(self.letters, self.letters)
        if self.form == "letter":
            return f"{name} ({', '.join(self.letters)} without a name)"
        delimiter, before = self.form[0], self.form.endswith("prefix")
        marks = ", ".join(f"{letter}{delimiter}" if before else f"{delimiter}{letter}" for letter in self.letters)
        return f"{name} ({marks} {'before' if before else 'after'} the name)"


PLAIN = TagScheme(letters="")
"""Labels that are names alone, as parts of speech are: every word is a span of its own (`conlleval -r`)."""


@lru_cache
def scheme_of(labels: tuple[str, ...]) -> TagScheme:
    """The scheme that most of all the `labels` of a task follow; `PLAIN` where none does.

    A scheme has a B or an I: without, there are no spans of several words to tell apart. Where only some labels are
    written in its way, that is no coincidence (as in VITAMIN-B beside DISEASE) if one name occurs in two roles, or if
    they have B- or I- in front.
    """
    inside = [label for label in labels if label != OUTSIDE]
    best, most = PLAIN, 0
    for form, pattern in FORMS.items():
        matches = [found for label in inside if (found := re.fullmatch(pattern, label, re.DOTALL))]
        seen = {found["letter"] for found in matches}
        names = {found["name"] for found in matches}
        meant = form == "-prefix" or (form != "letter" and len(names) < len(matches))
        if seen & {"B", "I"} and len(matches) > most and (meant or len(matches) == len(inside)):
            best, most = TagScheme(form, "".join(letter for letter in ROLES if letter in seen)), len(matches)
    return best
