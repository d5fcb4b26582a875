"""CoNLL files: which lines are words."""

from __future__ import annotations

import json

import pytest

from prunetime.errors import InputError
from prunetime.tasks.conll import parse_conll


def sentences(text: str) -> list[tuple[list[str], list[str]]]:
    """(words, labels) of every sentence."""
    columns = parse_conll(text.split("\n"), "x.conll").columns
    return [
        (json.loads(words), json.loads(tags)) for words, tags in zip(columns["tokens"], columns["tags"], strict=True)
    ]


@pytest.mark.parametrize("gap", [" ", "\t", "   "])
def test_a_word_of_one_sign_is_a_word(gap: str) -> None:
    lines = [["#", "O"], ["1", "B-PER"], [], ["song", "O"], ["#", "O"], ["2", "B-PER"]]
    found = sentences("\n".join(gap.join(line) for line in lines))
    assert found == [(["#", "1"], ["O", "B-PER"]), (["song", "#", "2"], ["O", "O", "B-PER"])]
    assert sentences("a NN O\n#1 NN O\n#tag NN B-X\n") == [(["a", "#1", "#tag"], ["O", "O", "B-X"])]


def test_comments_stand_before_a_sentence() -> None:
    text = "# id = 1\n# O what this is\na B-X\n\n# text\n#newdoc\nb O\n"
    assert sentences(text) == [(["a"], ["B-X"]), (["b"], ["O"])]
    with pytest.raises(InputError, match="line 2: '# id = 7' has 4 columns, but the first word of the file has 2"):
        sentences("a B-X\n# id = 7\n")


def test_documents_end_sentences() -> None:
    assert sentences("-DOCSTART- -X- O\n\na X O\n-DOCSTART- O\nb X O") == [(["a"], ["O"]), (["b"], ["O"])]


def test_other_white_space_is_text() -> None:
    assert sentences("10\u00a0000 B-N\na\u2028b\x0cc O\n \t\nd O") == [
        (["10\u00a0000", "a\u2028b\x0cc"], ["B-N", "O"]),
        (["d"], ["O"]),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a X B-PER\nb O\n", "line 2: 'b O' has 2 columns, but the first word of the file has 3"),
        ("a X B-PER\n\nb\n", "line 3: 'b' has no label"),
        ("1 a B-X\n2 b O\n\n1 c O", "line 1: the first column counts the words, as in CoNLL-U"),
        ("# O\n\n", "no rows of data"),
    ],
)
def test_what_is_no_word_and_label_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sentences(text)
