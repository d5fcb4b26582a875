"""Several labels a text, in lists or in columns of 0 and 1: how they are read, and judged as scikit-learn judges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from sklearn import metrics as reference
from sklearn.preprocessing import MultiLabelBinarizer

from prunetime.core.task import Task
from prunetime.core.task_kind import TaskKind
from prunetime.errors import InputError
from prunetime.tasks.data import examples, guess_columns, task_of
from prunetime.tasks.labels import label_notes
from prunetime.tasks.metrics import (
    AGREEMENT,
    agreed_labels,
    evaluate,
    evaluate_difference,
    metric,
    with_best_threshold,
)
from prunetime.tasks.sources import read_table
from prunetime.tasks.table import Table

TEXTS = ["late and broken again", "thanks a lot to you", "where is my parcel", "it came late"]
LISTS = [["late", "broken"], [], ["question"], ["late"]]
TASK = Task("multi-label-classification", ("a", "b", "c"), ("text",), 16)


def table(labels: list[str], texts: list[str] = TEXTS, **more: list[str]) -> Table:
    return Table("t", {"text": texts, "labels": labels, **more})


def read(found: Table, label: str | None = None, kind: TaskKind | None = None) -> tuple[Task, np.ndarray]:
    columns, _ = guess_columns(found, ("text",), label)
    task = task_of(found, columns, 16, kind)
    return task, examples(found, columns, task).labels


def test_lists_are_read_from_every_format_as_sklearn_reads_them(tmp_path: Path) -> None:
    rows = [{"text": text, "labels": labels} for text, labels in zip(TEXTS, LISTS, strict=True)]
    written = [json.dumps(labels) for labels in LISTS]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "a.tsv").write_text(
        "text\tlabels\n" + "".join(f"{t}\t{w}\n" for t, w in zip(TEXTS, written, strict=True))
    )
    quoted = [w.replace('"', '""') for w in written]
    (tmp_path / "a.csv").write_text(
        "text,labels\n" + "".join(f'{t},"{q}"\n' for t, q in zip(TEXTS, quoted, strict=True))
    )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    binarizer = MultiLabelBinarizer()
    expected = binarizer.fit_transform(LISTS)
    for name in ("a.jsonl", "a.tsv", "a.csv", "a.parquet"):
        task, labels = read(read_table(str(tmp_path / name)))
        assert (task.kind, task.labels) == ("multi-label-classification", tuple(binarizer.classes_))
        np.testing.assert_array_equal(labels, expected)


def test_columns_of_0_and_1_are_labels_in_their_order() -> None:
    columns = {
        "late": ["1", "0", "0", "1"],
        "odd, too": ["1.0", "0.0", "0", "0"],
        "ask": ["False", "false", "true", "0"],
    }
    found = Table("t", {"text": TEXTS, **columns})
    task, labels = read(found, 'late,"odd, too",ask')
    assert (task.kind, task.labels) == ("multi-label-classification", ("late", "odd, too", "ask"))
    assert labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert read(found, "late")[0].kind == "classification"
    guessed, said = guess_columns(found, (), 'late,"odd, too",ask')
    assert (guessed.text, said) == (("text",), "Guessed from the columns of t: text = text; a row's group is its text.")
    one_name = Table("t", {"text": TEXTS, "a,b": ["x", "y", "x", "y"]})
    assert read(one_name, "a,b")[0].labels == ("x", "y")


def test_numbers_are_names_or_stand_for_the_names_of_a_dataset() -> None:
    numbers = table(["[10, 2]", "[]", "[2]", '["10"]'])
    assert read(numbers)[0].labels == ("2", "10")
    named = numbers.with_class_names({"labels": ("late", "never", "question")}, "README.md")
    with pytest.raises(InputError, match="row 1: the label 10 is none of 0 to 2, nor of their names late, never"):
        read(named)
    named = table(["[0]", "[]", '["never", 2]', "[2]"]).with_class_names({"labels": ("late", "never", "question")}, "d")
    task, labels = read(named)
    assert (task.labels, labels.sum(axis=0).tolist()) == (("late", "never", "question"), [1, 1, 2])
    assert label_notes(named, "labels", task) == [
        "Labels of t, column 'labels': numbers are 0 = late, 1 = never, 2 = question, by d."
    ]


def test_lists_are_labels_of_words_where_they_are_as_long_as_their_texts() -> None:
    words = ['["O", "O", "X", "O"]', '["O", "O", "O", "O", "X"]', '["X", "O", "O", "X"]']
    assert read(table([*words, '["X", "O", "O"]']))[0].kind == "token-classification"
    with pytest.raises(InputError, match=r"row 4: 2 labels for 3 words; .* multi-label-classification"):
        read(table([*words, '["X", "O"]']))
    once = ['["a"]', '["b"]', '["a", "b"]', "[]"]
    assert read(table(once, ["late", "what is this", "a b c", "x y z"]))[0].kind == "multi-label-classification"
    as_long = table([*once[:3], '["a"]'], ["late", "late", "two words", "x"])
    assert read(as_long)[0].kind == "token-classification"
    assert read(as_long, kind="multi-label-classification")[1].tolist() == [[1, 0], [0, 1], [1, 1], [1, 0]]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["[0, 0, 1]"] * 4, r"row 1: the label '0' is there twice; .* --label a,b,c"),
        (["[0.0, 1.0]"] * 4, r"row 1: 0.0 is no label; a list has names"),
        (['["a", null]'] * 4, "row 1: None is no label"),
        (['["a", true]'] * 4, "row 1: True is no label"),
        (['["a", " "]'] * 4, "row 1: ' ' is no label"),
        (['["a", ["b"]]'] * 4, r"row 1: \['b'\] is no label"),
        (['["a", "b"]', "a", '["b"]', "[]"], r"row 2: 'a' is no list of labels; write \[\] for none"),
        (['["a"]', "", '["b"]', "[]"], "empty or NaN label in row 2"),
        (["[a]"] * 4, "is no list"),
        (['["a"]', "[]", '["a"]', "[]"], "it has 1 label in all; .* a column of 0 and 1"),
        (["[]"] * 4, "it has 0 labels in all"),
        (['["a", "b"]'] * 4, "one class only"),
        (
            [json.dumps([f"{row} {n}" for n in range(300)]) for row in range(4)],
            "1200 different labels, .* 1000 classes",
        ),
    ],
)
def test_lists_that_are_none_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(table(labels), kind="multi-label-classification")


def test_columns_that_make_no_sense_are_refused() -> None:
    found = table(
        ["x", "y", "x", "y"], a=["1", "0", "1", "0"], b=["0", "1", "0", "0"], c=["1", "0", "2", "0"], d=["0"] * 4
    )
    for label, message in {
        "a,c": r"column 'c', row 3: '2' is not 0 or 1, .* --label a,c takes each column as one label",
        "a,labels": "column 'labels', row 1: 'x' is not 0 or 1",
        "a,d": "no row has the label 'd'; leave its column out",
        "a,b,a": "a column is named twice",
        "a,e": "has no column 'e'",
    }.items():
        with pytest.raises(InputError, match=message):
            read(found, label)
    with pytest.raises(InputError, match="classification has one label column"):
        read(found, "a,b", "classification")


def test_a_label_that_training_data_has_not_is_refused() -> None:
    task, _ = read(table([json.dumps(labels) for labels in LISTS]))
    other = table(['["late", "new"]', "[]", '["late"]', "[]"])
    with pytest.raises(InputError, match=r"row 1: label 'new' is not one of the task's, .*: broken, late, question"):
        examples(other, guess_columns(other, ("text",))[0], task)


def made(rows: int = 200, labels: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, labels that they know something of, each rarer than the one before, and groups."""
    rng = np.random.default_rng(seed)
    there = (rng.random((rows, labels)) < 0.5 / np.arange(1, labels + 1)).astype(np.float32)
    scores = 1 / (1 + np.exp(1 - 2 * there + rng.normal(size=there.shape)))
    return np.round(scores, 2).astype(np.float32), there, rng.integers(0, rows // 4, rows)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_sklearn(seed: int) -> None:
    scores, labels, groups = made(seed=seed)
    for name, expected in {
        "f1_micro": reference.f1_score(labels, scores >= 0.5, average="micro"),
        "f1_macro": reference.f1_score(labels, scores >= 0.5, average="macro"),
        "auc": reference.roc_auc_score(labels, scores, average="macro"),
    }.items():
        assert metric(name).value(scores, labels, groups) == pytest.approx(expected, abs=1e-9)
    labels[:, 3], scores[:, 3] = 0, 0  # which is neither given nor there
    expected = reference.f1_score(labels, scores >= 0.5, average="macro", zero_division=np.nan)
    assert metric("f1_macro").value(scores, labels, groups) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["f1_micro", "f1_macro", "auc"])
def test_the_interval_is_that_of_a_naive_loop_over_groups(name: str) -> None:
    scores, labels, groups = made(80, 3)
    chosen, unique, rng, values = metric(name), np.unique(groups), np.random.default_rng(7), []
    for _ in range(100):
        drawn = unique[rng.integers(0, len(unique), len(unique))]
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        copies = np.concatenate([np.full((groups == group).sum(), i) for i, group in enumerate(drawn)])
        values.append(chosen.value(scores[rows], labels[rows], copies))
    got = evaluate(chosen, scores, labels, groups, resamples=100, seed=7)
    assert got.ci95 == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))), abs=1e-9)
    assert evaluate_difference(chosen, scores, scores, labels, groups).ci95 == (0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_is_that_of_the_best_micro_f1(seed: int) -> None:
    scores, labels, groups = made(seed=seed)
    task = with_best_threshold(Task("multi-label-classification", tuple("abcd"), ("text",), 16), scores, labels)
    every = [reference.f1_score(labels, scores >= share, average="micro") for share in np.unique(scores)]
    above, below = scores[scores >= task.threshold].min(), scores[scores < task.threshold].max()
    assert task.threshold == pytest.approx((above + below) / 2)
    assigned = [[name in row for name in "abcd"] for row in task.assigned(scores)]
    assert reference.f1_score(labels, assigned, average="micro") == pytest.approx(max(every), abs=1e-12)
    assert metric("f1_micro").value(task.at_half(scores), labels, groups) == pytest.approx(max(every), abs=1e-9)
    assert metric("auc").value(task.at_half(scores), labels, groups) == metric("auc").value(scores, labels, groups)
    assert Task.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_a_threshold_stays_between_0_and_1_and_is_of_several_labels_only() -> None:
    ones = np.ones((4, 3), np.float32)
    assert with_best_threshold(TASK, ones, ones).assigned(ones) == [["a", "b", "c"]] * 4
    assert 0.0 < with_best_threshold(TASK, 0 * ones, ones).threshold < 1e-5
    for threshold in (0.0, 1.0, 2, "0.5"):
        with pytest.raises(InputError, match="above 0 and below 1"):
            Task("multi-label-classification", ("a", "b"), ("text",), 16, threshold=threshold)
    with pytest.raises(InputError, match="relevance has none"):
        Task("relevance", (), ("text",), 16, threshold=0.3)
    relevance = Task("relevance", (), ("text",), 16)
    assert with_best_threshold(relevance, ones[0], ones[0]) == relevance
    with pytest.raises(InputError, match="no threshold"):
        relevance.assigned(ones)


def test_metrics_of_one_class_do_not_fit_several_labels() -> None:
    with pytest.raises(
        InputError, match="accuracy does not fit a multi-label-classification task; these do: auc, f1_micro"
    ):
        metric("accuracy").check(TASK)


def test_several_labels_agree_as_far_as_they_are_equal():
    task = Task("multi-label-classification", ("a", "b", "c"), ("text",), 16, threshold=0.3)
    teacher = np.array([[0.9, 0.35, 0.1], [0.2, 0.2, 0.31]])
    labels = agreed_labels(task, task.at_half(teacher))
    np.testing.assert_array_equal(labels, [[1, 1, 0], [0, 0, 1]])
    scores = np.array([[0.9, 0.2, 0.1], [0.2, 0.2, 0.9]])
    assert AGREEMENT.value(task.at_half(scores), labels, np.arange(2)) == pytest.approx(5 / 6)
