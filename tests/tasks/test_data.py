import numpy as np
import pytest

from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.tasks.data import Columns, examples, group_ids, guess_columns, task_of
from prunetime.tasks.labels import label_notes
from prunetime.tasks.table import Table

PAIR = Columns(("query", "title"), "label", None)


def table(labels, **more):
    rows = len(labels)
    columns = {"query": [f"q {i}" for i in range(rows)], "title": [f"t {i}" for i in range(rows)], "label": labels}
    return Table("t.tsv", {**columns, **more})


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (["0", "1", "1"], "classification", ("0", "1")),
        (["1.0", "0.0", "1"], "classification", ("0", "1")),
        (["3", "10", "2"], "classification", ("2", "3", "10")),
        (["neutral", "entailment", "contradiction"], "classification", ("contradiction", "entailment", "neutral")),
        (["true", "false", " true "], "classification", ("false", "true")),
        (["0.33", "1", "0"], "relevance", ()),
        (["0.5", "5", "3.2"], "regression", ()),
        (["-1.5", "0.5", "1"], "regression", ()),
        (["1_0", "2", "3"], "classification", ("2", "3", "1_0")),
        (["0012", "0013", "12"], "classification", ("0012", "12", "0013")),
        (["01", "1", "1"], "classification", ("01", "1")),
        (
            ["12345678901234567890", "12345678901234567891"],
            "classification",
            ("12345678901234567890", "12345678901234567891"),
        ),
        (["1.0", "2.0", "10"], "classification", ("1", "2", "10")),
        (["9007199254740993.0", "9007199254740992"], "classification", ("9007199254740992", "9007199254740993")),
        (["1.", "0."], "classification", ("0", "1")),
        (["-1.0", "1.0"], "classification", ("-1", "1")),
        (["1.0", "good", "1"], "classification", ("1", "1.0", "good")),
        (["1.0", "01", "1"], "classification", ("01", "1", "1.0")),
        (["True", "False"], "classification", ("False", "True")),
        (["1.50", "1.5"], "regression", ()),
        (["\u0661", "\u0662"], "classification", ("\u0661", "\u0662")),
    ],
)
def test_what_labels_mean(labels, kind, names):
    task = task_of(table(labels), PAIR, 48)
    assert (task.kind, task.labels, task.text, task.max_length) == (kind, names, ("query", "title"), 48)


def test_numbers_that_are_names_are_told_apart_in_every_table():
    names = ["0012", "12", "12345678901234567890", "12345678901234567891"]
    task = task_of(table(names), PAIR, 48)
    assert [task.labels[label] for label in examples(table(names[::-1]), PAIR, task).labels] == names[::-1]
    with pytest.raises(InputError, match=r"label '012' \(row 2\) is not one of the task's: 0012, 12, "):
        examples(table(["12", "012"]), PAIR, task)
    floats = examples(table(["2.0", "1.0"]), PAIR, task_of(table(["1", "2"]), PAIR, 48))
    assert floats.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "kind", "notes"),
    [
        (["1.0", "2.0"], None, ["whole numbers written as floats are classes, such as 1."]),
        (["1", "3"], None, ["whole numbers are 2 classes; --task regression takes them as numbers."]),
        (
            ["007", "7"],
            None,
            [
                "whole numbers are 2 classes; --task regression takes them as numbers.",
                "'007' is a name, and not the class 7.",
            ],
        ),
        ([" a", "b "], None, ["white space around 2 labels is left out."]),
        (["0", "1"], None, []),
        (["a", "b"], None, []),
        (["1.0", "2.0"], "regression", []),
    ],
)
def test_how_labels_were_read_is_said(labels, kind, notes):
    rows = table(labels)
    said = label_notes(rows, "label", task_of(rows, PAIR, 48, kind))
    assert said == [f"Labels of t.tsv, column 'label': {note}" for note in notes]


def test_a_kind_can_be_chosen():
    assert task_of(table(["0", "1", "1"]), PAIR, 48, "relevance").labels == ()
    assert task_of(table(["1", "5", "3"]), PAIR, 48, "regression").kind == "regression"
    with pytest.raises(InputError, match=r"label': 5 \(rows 2, 3\) is outside 0\.\.1"):
        task_of(table(["1", "5", "3"]), PAIR, 48, "relevance")
    with pytest.raises(InputError, match=r"'good' \(row 2\) is no number, as regression needs"):
        task_of(table(["1", "good", "3"]), PAIR, 48, "regression")


def test_labels_become_class_indices_or_floats():
    task = task_of(table(["b", "a", "c"]), PAIR, 48)
    rows = examples(table(["c", "a", "a"]), PAIR, task)
    assert rows.labels.tolist() == [2, 0, 0]
    assert rows.labels.dtype == np.int64
    assert rows.texts[1] == ("q 1", "t 1")
    relevance = examples(table(["0.25", "1", "0"]), PAIR, Task("relevance", (), ("query", "title"), 48))
    assert relevance.labels.tolist() == [0.25, 1.0, 0.0]
    assert relevance.labels.dtype == np.float32
    binary = Task("classification", ("0", "1"), ("query", "title"), 48)
    assert examples(table(["1.0", "0.0", "1"]), PAIR, binary).labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["0", "", "1", " "], r"t\.tsv, column 'label': empty or NaN label in rows 2, 4"),
        (["0", "NaN", "1"], "empty or NaN label in row 2"),
        (["good", "nan", "bad"], "empty or NaN label in row 2"),
        (["0.5", "inf", "0.1"], r"label 'inf' in row 2 is not finite"),
        (["1", "1", "1"], "one class only, '1'"),
        ([str(i) for i in range(1001)], "1001 different labels, such as '0' and '1000'; the limit is 1000"),
        (["0,5", "1,0"], "'0,5' is a number with a comma; write a point"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(InputError, match=message):
        task_of(table(labels), PAIR, 48)


def test_labels_that_do_not_fit_the_task():
    binary = Task("classification", ("0", "1"), ("query", "title"), 48)
    with pytest.raises(InputError, match=r"label '2' \(rows 3, 4\) is not one of the task's: 0, 1"):
        examples(table(["0", "1", "2", "2"]), PAIR, binary)
    with pytest.raises(InputError, match="one class only, every label is '1'"):
        examples(table(["1", "1"]), PAIR, binary)
    with pytest.raises(InputError, match="empty or NaN label in row 1"):
        examples(table(["nan", "1"]), PAIR, Task("regression", (), ("query", "title"), 48))
    with pytest.raises(InputError, match="is no number"):
        examples(table(["bad", "1"]), PAIR, Task("regression", (), ("query", "title"), 48))


def test_empty_texts_are_named_by_row():
    empty = table(["0", "1"] * 4, title=["a", " ", "c", "", "e", "\t", "\u00a0", ""])
    binary = Task("classification", ("0", "1"), ("query", "title"), 48)
    with pytest.raises(InputError, match=r"t\.tsv, column 'title': no text in rows 2, 4, 6, 7, 8"):
        examples(empty, PAIR, binary)
    with pytest.raises(InputError, match="has no column 'body'; it has query, title, label"):
        examples(empty, Columns(("body",), "label", None), binary)


def test_select_keeps_rows_together():
    rows = examples(
        table(["0", "1", "1", "0"], uid=list("abcd")), PAIR, Task("classification", ("0", "1"), PAIR.text, 48)
    )
    some = rows.select(np.array([False, True, False, True])).select([1, 0])
    assert some.texts == [("q 3", "t 3"), ("q 1", "t 1")]
    assert some.column("uid") == ["d", "b"]
    assert some.labels.tolist() == [0, 1]
    assert some.rows.tolist() == [3, 1]
    assert some.groups.tolist() == rows.groups[[3, 1]].tolist()


def test_group_ids_depend_on_the_text_alone():
    assert group_ids(["Red  Sofa ", "lamp"]).tolist() == group_ids(["red sofa", "LAMP"]).tolist()
    assert group_ids(["lamp"]).tolist() == group_ids(["x", "lamp"]).tolist()[1:]
    assert group_ids(["red sofa"]).tolist() == [RED_SOFA], "ids are the same on every machine"


RED_SOFA = 2661373269304674577


def with_columns(**columns):
    return Table("t.tsv", columns)


TITLES = ["a red sofa", "two lamps", "one rug"]


@pytest.mark.parametrize(
    ("columns", "expected", "sentence"),
    [
        (
            {"id": ["1", "2", "3"], "query": ["sofa", "lamp", "rug"], "title": TITLES, "label": ["1", "0", "1"]},
            Columns(("query", "title"), "label", "query"),
            "Guessed from the columns of t.tsv: label = label; text = query,title; group = query.",
        ),
        (
            {"query": ["sofa", "lamp", "rug"], "title": TITLES, "relevance": ["3", "2", "1"], "label": ["1", "0", "1"]},
            Columns(("query", "title"), "label", "query"),
            "label = label;",
        ),
        (
            {"question": TITLES, "label": ["A", "B", "A"], "fine_label": ["a1", "b1", "a2"]},
            Columns(("question",), "label", None),
            "text = question; a row's group is its question.",
        ),
        (
            {"sentence1": TITLES, "sentence2": TITLES, "score": ["0.1", "5", "2"]},
            Columns(("sentence1", "sentence2"), "score", None),
            "label = score;",
        ),
        (
            {"left": TITLES, "right": TITLES, "target": ["0", "1", "1"], "source": ["x", "x", "y"]},
            Columns(("left", "right"), "target", None),
            "text = left,right",
        ),
    ],
)
def test_unambiguous_columns_are_guessed(columns, expected, sentence):
    got, said = guess_columns(with_columns(**columns))
    assert got == expected
    assert sentence in said


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"query": TITLES, "title": TITLES, "description": TITLES, "label": ["0", "1", "1"]}, "3 columns hold text"),
        ({"query": TITLES, "score": ["0", "1", "1"], "relevance": ["0", "1", "1"]}, "could be score or relevance"),
        ({"query": TITLES, "y": ["0", "1", "1"]}, "columns are query, y. Give --label COLUMN"),
        ({"a": ["x", "y", "z"], "label": ["0", "1", "1"]}, "columns are a, label. Give --text COLUMN"),
    ],
)
def test_ambiguous_columns_are_not_guessed(columns, message):
    with pytest.raises(InputError, match=message):
        guess_columns(with_columns(**columns))


def test_given_columns_are_taken_and_checked():
    rows = table(["0", "1"], product_uid=["7", "8"])
    assert guess_columns(rows, ("title",), "label", "product_uid") == (Columns(("title",), "label", "product_uid"), "")
    columns, said = guess_columns(rows, group="query")
    assert columns == Columns(("query", "title"), "label", "query")
    assert "group" not in said
    with pytest.raises(InputError, match="no column 'body'; it has query, title, label, product_uid"):
        guess_columns(rows, ("query", "body"))
    with pytest.raises(InputError, match="one or two different columns"):
        guess_columns(rows, ("query", "query"))
    with pytest.raises(InputError, match="one or two different columns"):
        guess_columns(rows, ("query", "title", "product_uid"))
