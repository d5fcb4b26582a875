"""Words with labels: files and columns that have them, spans, and how they are judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunetime.core.tag_scheme import TagScheme
from prunetime.core.task import Tagged, Task
from prunetime.errors import InputError
from prunetime.tasks.data import examples, guess_columns, task_of
from prunetime.tasks.metrics import default_metric, evaluate, metric
from prunetime.tasks.sources import read_table
from prunetime.tasks.table import Table

CONLL = """-DOCSTART- -X- O O

EU NNP I-NP B-ORG
rejects VBZ I-VP O
German JJ I-NP B-MISC
call NN I-NP O

Peter NNP I-NP B-PER
Blackburn NNP I-NP I-PER
"""


def table(tokens: list[object], tags: list[object]) -> Table:
    return Table.of_rows(
        "made", ("tokens", "ner_tags"), [list(map(json.dumps, row)) for row in zip(tokens, tags, strict=True)]
    )


def tagged(labels: list[str], probability: float = 1.0) -> Tagged:
    words = tuple((2 * i, 2 * i + 1) for i in range(len(labels)))
    return Tagged(" ".join("w" * len(labels)), words, tuple(labels), (probability,) * len(labels))


def objects(values: list[object]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_a_conll_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text(CONLL)
    found = read_table(str(tmp_path / "train.conll"))
    columns, guess = guess_columns(found)
    assert (columns.text, columns.label) == (("tokens",), "tags")
    assert "label = tags" in guess
    task = task_of(found, columns, 24)
    assert (task.kind, task.rows, task.outputs) == ("token-classification", "tokens", 5)
    assert task.labels == ("O", "B-MISC", "B-ORG", "B-PER", "I-PER")
    rows = examples(found, columns, task)
    assert rows.texts == [("EU rejects German call",), ("Peter Blackburn",)]
    assert rows.labels[1] == ("B-PER", "I-PER")
    assert default_metric(task).name == "f1"


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        ([["a"], ["b", "c"]], [["O"], ["X"]], "row 2: 1 labels for 2 words"),
        ([["a b"], ["c"]], [["O", "X"], ["O"]], "'a b' is no word"),
        ([["a", ""], ["c"]], [["O", "X"], ["O"]], "'' is no word"),
        ([[], ["c"]], [["O"], ["X"]], "row 1: no words"),
        ([["a"], ["b"]], [["O"], {"x": 1}], "row 2: .* is no list"),
        ([["a"], ["b"]], [["O"], [None]], "row 2: None is no label of a word"),
        ([["a"], ["b"]], [["O"], [1.0]], r"row 2: 1\.0 is no label of a word"),
        ([["a"], ["b"]], [["O"], [True]], "row 2: True is no label of a word"),
        ([["a"], ["b"]], [["O"], [" "]], "row 2: ' ' is no label of a word"),
        ([["a"], ["b"]], [[0], [1]], "row 1: the label 0 is a number, and nothing says which is O"),
        ([["a"], ["b"]], [["0"], ["1"]], "the labels 0, 1 are numbers, and nothing says which is O"),
        ([["a"], ["b"]], [["B-X"], ["OUT"]], r"'OUT' is not written as other labels are, IOB \(B- before the name\)"),
        ([["a", "b", "c"]], [["X-B", "X-I", "PAD"]], "'PAD' is not written as other labels are, IOB"),
        ([["a", "b"]], [["b-x", "i-x"]], "b-x, i-x are written in small letters"),
        ([["a", "b", "c"]], [["B-X", "E-X", "L-X"]], "E and L would both mark the end of a span"),
        ([["a", "b", "c"]], [["B-X", "I-X", "M-X"]], "I and M would both mark the inside of a span"),
        ([["a", "b"]], [["(PERSON*", "*)"]], r"'\(PERSON\*' marks spans by brackets"),
        ([["a", "b"]], [["B-X|B-Y", "O"]], r"'B-X\|B-Y' is of spans inside spans"),
    ],
)
def test_what_does_not_fit_is_refused(tokens: list[object], tags: list[object], message: str) -> None:
    found = table(tokens, tags)
    columns, _ = guess_columns(found)
    with pytest.raises(InputError, match=message):
        examples(found, columns, task_of(found, columns, 24))


def test_labels_of_words_that_are_no_lists_are_not_taken_for_classes() -> None:
    found = Table("made", {"tokens": ["a b", "c d"], "tags": ["O B-X", "O O"]})
    with pytest.raises(InputError, match="the label has no column of a usual name; the columns are tokens, tags"):
        guess_columns(found)


def test_a_word_without_a_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.conll").write_text("EU B-ORG\nrejects\n")
    with pytest.raises(InputError, match="line 2: 'rejects' has no label"):
        read_table(str(tmp_path / "x.conll"))


def test_labels_that_training_had_not_are_refused() -> None:
    task = Task("token-classification", ("O", "X"), ("tokens",), 24)
    found = table([["a"]], [["Y"]])
    with pytest.raises(InputError, match="label 'Y' is not one of the task's: O, X"):
        examples(found, guess_columns(found)[0], task)


def test_spans_are_what_conlleval_says() -> None:
    assert TagScheme().spans(["O", "B-PER", "I-PER", "I-LOC", "O", "I-ORG", "B-ORG"]) == [
        ("PER", 1, 2), ("LOC", 3, 3), ("ORG", 5, 5), ("ORG", 6, 6),
    ]  # fmt: skip
    assert TagScheme().spans(["B-A", "O", "I-A"]) == [("A", 0, 0), ("A", 2, 2)]
    assert TagScheme().spans(["NOUN", "NOUN", "O"]) == [("NOUN", 0, 0), ("NOUN", 1, 1)]
    spans = Tagged("red love seat", ((0, 3), (4, 8), (9, 13)), ("O", "B-N", "I-N"), (1.0, 0.9, 0.8)).spans
    assert spans == [("N", "love seat", 4, 0.8)]


@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(1, 3), st.integers(0, 2)), max_size=6))
def test_spans_survive_being_written_as_labels(parts: list[tuple[str, int, int]]) -> None:
    labels, expected = [], []
    for name, length, gap in parts:
        labels += ["O"] * gap
        expected.append((name, len(labels), len(labels) + length - 1))
        labels += [f"B-{name}", *[f"I-{name}"] * (length - 1)]
    assert TagScheme().spans(labels) == expected


def test_f1_is_of_all_spans_and_accuracy_of_all_words() -> None:
    gold = objects([("B-A", "I-A", "O"), ("O", "B-B"), ("O",)])
    said = objects([tagged(["B-A", "I-A", "O"]), tagged(["B-B", "B-B"]), tagged(["O"])])
    groups = np.arange(3)
    # 2 right of 3 said and 2 there; 5 of 6 words
    assert metric("f1").value(said, gold, groups) == pytest.approx(2 * 2 / (3 + 2))
    assert metric("accuracy").value(said, gold, groups) == pytest.approx(5 / 6)
    low, high = evaluate(metric("f1"), said, gold, groups).ci95
    assert 0.0 <= low < 0.8 < high <= 1.0
    with pytest.raises(InputError, match="metric auc does not fit a token-classification task; these do: accuracy, f1"):
        metric("auc").check(Task("token-classification", ("O", "X"), ("tokens",), 24))


@pytest.mark.parametrize(
    ("gold", "said", "right_said_there"),
    [
        # IOB1: two persons side by side, said to be one
        (["I-PER", "B-PER", "O", "I-LOC"], ["I-PER", "I-PER", "O", "I-LOC"], (1, 2, 3)),
        # IOE2
        (["I-PER", "E-PER", "E-PER", "O"], ["I-PER", "E-PER", "I-PER", "E-PER"], (1, 2, 2)),
        # BIOES: a span of one word, and the end of one that is not said
        (["B-PER", "E-PER", "O", "S-LOC"], ["B-PER", "O", "O", "S-LOC"], (1, 2, 2)),
        (["B-PER", "L-PER", "O", "U-LOC"], ["B-PER", "I-PER", "O", "U-LOC"], (2, 2, 2)),
        (["B-PER", "M-PER", "E-PER", "W-LOC"], ["B-PER", "M-PER", "E-PER", "O"], (1, 1, 2)),
        (["PER-B", "PER-I", "O", "LOC-B"], ["PER-B", "PER-I", "O", "LOC-I"], (2, 2, 2)),
        (["B_PER", "I_PER", "O", "B_LOC"], ["B_PER", "B_PER", "O", "B_LOC"], (1, 3, 2)),
        (["B", "I", "O", "B"], ["B", "I", "I", "B"], (1, 2, 2)),
    ],
)
def test_f1_is_of_the_scheme_of_the_data(
    gold: list[str], said: list[str], right_said_there: tuple[int, int, int]
) -> None:
    """Counted by hand from the definitions of the schemes."""
    found = table([[*"abcd"], [*"abcd"]], [gold, said])
    columns, _ = guess_columns(found)
    task = task_of(found, columns, 24)
    rows = examples(found, columns, task)
    score = Tagged("a b c d", ((0, 1), (2, 3), (4, 5), (6, 7)), tuple(said), (1.0,) * 4, task.tag_scheme)
    right, claimed, there = right_said_there
    value = metric("f1").value(objects([score]), rows.labels[:1], np.zeros(1))
    assert value == pytest.approx(2 * right / (claimed + there))
    assert len(score.spans) == claimed


def test_generated_titles_have_a_label_for_every_word() -> None:
    found = read_table("synthetic:product-entities?rows=50&seed=3")
    assert found.columns == read_table("synthetic:product-entities?rows=50&seed=3").columns
    columns, _ = guess_columns(found)
    task = task_of(found, columns, 24)
    rows = examples(found, columns, task)
    assert task.labels[0] == "O"
    assert {"B-BRAND", "B-COLOR", "B-MATERIAL", "B-NAME", "I-NAME", "B-TARGET"} <= set(task.labels)
    assert all(len(text.split()) == len(tags) for (text,), tags in zip(rows.texts, rows.labels, strict=True))
    with pytest.raises(InputError, match="rows=0: give at least 1"):
        read_table("synthetic:product-entities?rows=0")
