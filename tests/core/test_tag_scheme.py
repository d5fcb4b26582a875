"""Tagging schemes, against their definitions and against the rules of `conlleval`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.core.tag_scheme import PLAIN, TagScheme, scheme_of

Spans = list[tuple[str, int, int]]


def iob1(length: int, follows: bool, _: bool) -> str:
    """I-, but B- where a span follows another of its name without a word between."""
    return "B" * follows + "I" * (length - follows)


def ioe1(length: int, _: bool, followed: bool) -> str:
    """I-, but E- where another of its name follows without a word between."""
    return "I" * (length - followed) + "E" * followed


def complete(begin: str, inside: str, end: str, single: str):
    return lambda length, *_: single if length == 1 else begin + inside * (length - 2) + end


DEFINITIONS = {
    "IOB1": iob1,
    "IOB2": lambda length, *_: "B" + "I" * (length - 1),
    "IOE1": ioe1,
    "IOE2": lambda length, *_: "I" * (length - 1) + "E",
    "BIOES": complete("B", "I", "E", "S"),
    "BILOU": complete("B", "I", "L", "U"),
    "BMEWO": complete("B", "M", "E", "W"),
    "BMES": complete("B", "M", "E", "S"),
}
"""The letters of a span of some words, which may follow, or be followed by, another of its name at once."""

FORMS = {"-prefix": "{0}-{1}", "_prefix": "{0}_{1}", "-suffix": "{1}-{0}", "_suffix": "{1}_{0}"}

spans = st.lists(st.tuples(st.sampled_from(["A", "in-the_B"]), st.integers(1, 4), st.integers(0, 2)), max_size=7)


def written(parts: list[tuple[str, int, int]], definition: str, form: str) -> tuple[list[str], Spans]:
    """The labels of words with spans of (name, words, words before it), and the spans."""
    labels: list[str] = []
    expected: Spans = []
    for number, (name, length, gap) in enumerate(parts):
        labels += ["O"] * gap
        before, after = parts[number - 1] if number else None, parts[number + 1] if number + 1 < len(parts) else None
        follows = before is not None and gap == 0 and before[0] == name
        followed = after is not None and after[2] == 0 and after[0] == name
        expected.append((name, len(labels), len(labels) + length - 1))
        labels += [FORMS[form].format(letter, name) for letter in DEFINITIONS[definition](length, follows, followed)]
    return labels, expected


def inventory(definition: str, form: str) -> tuple[str, ...]:
    """All labels of a scheme."""
    letters = sorted(
        {letter for n in (1, 2, 3) for a in (0, 1) for b in (0, 1) for letter in DEFINITIONS[definition](n, a, b)}
    )
    return ("O", *(FORMS[form].format(letter, name) for name in ("A", "in-the_B") for letter in letters))


@pytest.mark.parametrize("definition", DEFINITIONS)
@given(parts=spans, form=st.sampled_from(list(FORMS)))
def test_what_a_scheme_writes_is_read_as_it(definition: str, parts: list[tuple[str, int, int]], form: str) -> None:
    labels, expected = written(parts, definition, form)
    scheme = scheme_of(inventory(definition, form))
    assert scheme.form == form
    assert scheme.spans(labels) == expected


def conlleval(tags: list[tuple[str, str]]) -> Spans:
    """The chunks of (letter, type) of words by the tables of the script `conlleval`, with S as seqeval adds it."""
    starts = {"BB", "IB", "OB", "OI", "EE", "EI", "OE", "EB", "SB", "SI", "SE", "BS", "IS", "OS", "ES", "SS"}
    found: Spans = []
    before = ("O", "")
    for word, (letter, name) in enumerate(tags):
        if letter != "O":
            if before[0] + letter in starts or before[1] != name:
                found.append((name, word, word))
            else:
                found[-1] = (name, found[-1][1], word)
        before = (letter, name)
    return found


@pytest.mark.parametrize("letters", ["BI", "IE", "BIES"])
@given(st.data())
def test_what_no_scheme_allows_is_read_as_conlleval_reads_it(letters: str, data: st.DataObject) -> None:
    word = st.tuples(st.sampled_from(letters), st.sampled_from("XY")) | st.just(("O", ""))
    tags = data.draw(st.lists(word, max_size=9))
    scheme = scheme_of(tuple(f"{letter}-{name}" for letter in letters for name in "XY"))
    labels = [letter if letter == "O" else f"{letter}-{name}" for letter, name in tags]
    assert scheme.spans(labels) == conlleval(tags)


@pytest.mark.parametrize(
    ("labels", "described"),
    [
        (("O", "B-PER", "I-PER"), "IOB (B-, I- before the name)"),
        (("O", "I-PER", "I-LOC"), "IO (I- before the name)"),
        (("O", "E-PER", "I-PER"), "IOE (I-, E- before the name)"),
        (("O", "PER-B", "PER-I", "PER-E", "PER-S"), "BIOES (-B, -I, -E, -S after the name)"),
        (("O", "B_PER", "L_PER", "I_PER", "U_PER"), "BILOU (B_, I_, L_, U_ before the name)"),
        (("O", "B-PER", "M-PER", "E-PER", "W-PER"), "BMEWO (B-, M-, E-, W- before the name)"),
        (("O", "B", "I"), "IOB (B, I without a name)"),
        (("NOUN", "VERB", "O"), "names alone, every word a span of its own"),
        (("O", "VITAMIN-B", "DISEASE"), "names alone, every word a span of its own"),
        (("O", "E-MAIL", "S-BAHN"), "names alone, every word a span of its own"),
    ],
)
def test_schemes_are_told_by_all_labels(labels: tuple[str, ...], described: str) -> None:
    assert str(scheme_of(labels)) == described
    assert scheme_of(labels[::-1]) == scheme_of(labels)


def test_spans_of_one_kind_have_letters_alone() -> None:
    assert scheme_of(("B", "I", "O")).spans(["B", "I", "B", "O", "I"]) == [("_", 0, 1), ("_", 2, 2), ("_", 4, 4)]


def test_names_alone_are_spans_of_one_word() -> None:
    assert PLAIN.spans(["NOUN", "NOUN", "O"]) == [("NOUN", 0, 0), ("NOUN", 1, 1)]
    assert TagScheme().spans(["X", "B-A", "I-A", "X"]) == [("X", 0, 0), ("A", 1, 2), ("X", 3, 3)]
