"""Numbers of classes (`ClassLabel`) get the names that the file, the card or `dataset_infos.json` has, or are refused.

The forms are those that `datasets` 5.2 and the versions before it write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from prunetime.errors import InputError
from prunetime.tasks.data import Columns, examples, guess_columns, task_of
from prunetime.tasks.labels import label_notes
from prunetime.tasks.sources import read_table
from prunetime.tasks.table import Table

TAGS = ["O", "B-PER", "I-PER", "B-LOC"]
CLASSES = ["not_equivalent", "equivalent"]
ROWS: dict[str, list[Any]] = {
    "tokens": [["Anna", "Lee", "sings"], ["here"]],
    "ner_tags": [[1, 2, 0], [0]],
    "sentence": ["it is one", "it is another"],
    "label": [1, 0],
}


def class_label(names: Any) -> dict[str, Any]:
    return {"names": names, "_type": "ClassLabel"}


FEATURES = [
    {"ner_tags": {"feature": class_label(TAGS), "_type": "List"}, "label": class_label(CLASSES)},
    {"ner_tags": {"feature": class_label(TAGS), "length": -1, "_type": "Sequence"}, "label": class_label(CLASSES)},
    {"ner_tags": [class_label(TAGS)], "label": {"num_classes": 2, **class_label(CLASSES)}},
]
"""As features are written into JSON by version 4 and later, until then, and where a list was given as one."""

CARD = """---
license: mit
dataset_info:
- config_name: plain
  features:
  - name: tokens
    sequence: string
  - name: ner_tags
    {kind}:
      class_label:
        names:
          '0': O
          '1': B-PER
          '2': I-PER
          '3': B-LOC
  - name: label
    dtype:
      class_label:
        names:
          '0': not_equivalent
          '1': equivalent
---
# A dataset
"""


def write_parquet(path: Path, features: Any) -> None:
    table = pyarrow.table(ROWS)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pyarrow.parquet.write_table(table, path)


def write_jsonl(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(dict(zip(ROWS, row, strict=True))) + "\n" for row in zip(*ROWS.values(), strict=True))
    )


def check(table: Table, names_from: str) -> None:
    """Tags and classes have their names."""
    words, _ = guess_columns(table, ("tokens",), "ner_tags")
    task = task_of(table, words, 24)
    assert task.labels == tuple(TAGS), "also those that occur in no row"
    assert list(examples(table, words, task).labels) == [("B-PER", "I-PER", "O"), ("O",)]
    pairs = Columns(("sentence",), "label", None)
    assert task_of(table, pairs, 24).labels == tuple(CLASSES), "class 1 is the second, not that of the later name"
    assert examples(table, pairs, task_of(table, pairs, 24)).labels.tolist() == [1, 0]
    notes = [*label_notes(table, "ner_tags", task), *label_notes(table, "label", task_of(table, pairs, 24))]
    assert f"numbers are 0 = O, 1 = B-PER, 2 = I-PER, 3 = B-LOC, by {names_from}." in notes[0]
    assert f"numbers are 0 = not_equivalent, 1 = equivalent, by {names_from}." in notes[2]


@pytest.mark.parametrize("features", FEATURES)
def test_names_in_the_schema_of_parquet(features: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, features)
    check(read_table(str(path)), f"the metadata of {path}")


@pytest.mark.parametrize("kind", ["sequence", "list"])
@pytest.mark.parametrize("folder", ["", "data"])
def test_names_in_the_card_beside_the_file(kind: str, folder: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / folder / "train.jsonl")
    (tmp_path / "README.md").write_text(CARD.format(kind=kind))
    check(read_table(str(tmp_path / folder / "train.jsonl")), str(tmp_path / "README.md"))


def test_names_in_dataset_infos(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", None)
    (tmp_path / "README.md").write_text("# no header\n")
    (tmp_path / "dataset_infos.json").write_text(json.dumps({"plain": {"features": FEATURES[1]}}))
    check(read_table(str(tmp_path / "a.parquet")), str(tmp_path / "dataset_infos.json"))


def test_numbers_of_tags_without_names_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    table = read_table(str(tmp_path / "train.jsonl"))
    words = Columns(("tokens",), "ner_tags", None)
    with pytest.raises(InputError, match=r"row 1: the label 1 is a number, and nothing says which is O; give names"):
        task_of(table, words, 24)
    assert task_of(table, Columns(("sentence",), "label", None), 24).labels == ("0", "1"), "of classes they are names"


@pytest.mark.parametrize(
    ("tags", "expected"), [(["1", "I-PER"], ("B-PER", "I-PER")), ([4, 0], None), (["X", "O"], None), ([-100, 0], None)]
)
def test_tags_are_numbers_or_names_of_the_classes(tags: list[object], expected: tuple[str, ...] | None) -> None:
    table = Table("t", {"tokens": ['["a", "b"]'], "tags": [json.dumps(tags)]}, {"tags": tuple(TAGS)}, "the card")
    columns, _ = guess_columns(table)
    if expected:
        assert examples(table, columns, task_of(table, columns, 24)).labels[0] == expected
    else:
        with pytest.raises(InputError, match=f"the label {tags[0]} is none of 0 to 3, nor of their names O, B-PER, "):
            task_of(table, columns, 24)


def test_configs_that_disagree_say_nothing(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    infos = {"a": {"features": FEATURES[0]}, "b": {"features": {**FEATURES[0], "ner_tags": [class_label(TAGS[::-1])]}}}
    (tmp_path / "dataset_infos.json").write_text(json.dumps(infos))
    assert dict(read_table(str(tmp_path / "train.jsonl")).class_names) == {"label": tuple(CLASSES)}


@pytest.mark.parametrize("names", [["a", False], {"0": "a", "2": "b"}])
def test_names_that_are_no_texts_are_refused(names: object, tmp_path: Path) -> None:
    """YAML reads a bare `no` as False."""
    write_parquet(tmp_path / "a.parquet", {"label": class_label(names)})
    with pytest.raises(InputError, match=r"column 'label': (False|None) is no name of a class; write each as a text"):
        read_table(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("content", ["{", '{"a": 1'])
def test_damaged_files_beside_the_data_are_refused(content: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    (tmp_path / "dataset_infos.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset_infos\.json cannot be read: .*; mend it or move it away"):
        read_table(str(tmp_path / "train.jsonl"))


def labelled(labels: list[str], names: tuple[str, ...]) -> tuple[Table, Columns]:
    columns = {"text": [f"t {label}" for label in labels], "label": labels}
    return Table("t", columns, {"label": names}, "the card"), Columns(("text",), "label", None)


def test_rows_without_a_class_and_numbers_without_a_name_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"label '-1' \(row 2\) is none of the classes 0 = a, 1 = b by the card; remove such"
    ):
        task_of(*labelled(["0", "-1", "1"], ("a", "b")), 24)
    with pytest.raises(InputError, match="a class is called '1', but is not the class of that number"):
        task_of(*labelled(["0", "1"], ("1", "0")), 24)


def test_names_and_floats_of_numbers_are_understood_too() -> None:
    table, columns = labelled(["b", "0", "1.0"], ("a", "b"))
    assert examples(table, columns, task_of(table, columns, 24)).labels.tolist() == [1, 0, 1]


def test_artifacts_from_before_have_numbers_as_names() -> None:
    table, columns = labelled(["1", "0", "1"], ("a", "b"))
    bare = Table("t", table.columns)
    assert examples(table, columns, task_of(bare, columns, 24)).labels.tolist() == [1, 0, 1]


def test_numbers_can_be_taken_as_numbers() -> None:
    table, columns = labelled(["1", "0", "1"], ("a", "b"))
    task = task_of(table, columns, 24, "relevance")
    assert examples(table, columns, task).labels.tolist() == [1.0, 0.0, 1.0]
