"""The outputs of a model that is a teacher already are those of the data's labels, by name; against transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from checkpoints import bert
from inputs_page import Row, check_section, verdict
from tiny import wordpiece
from transformers import (
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    pipeline,
)

from prunetime.core.budget import Budget
from prunetime.errors import InputError
from prunetime.inference.inputs import Inputs
from prunetime.inference.reading import read
from prunetime.pipeline.source import Source, load_source
from prunetime.settings import Settings

TEXTS = [
    f"{a} {b} {c}"
    for a in ("red", "green", "blue")
    for b in ("sofa", "lamp", "rug")
    for c in ("a b", "c", "d e f", "g")
]
MNLI = ("contradiction", "neutral", "entailment")
"""In the order of many published models; the data's is that of the alphabet."""

NER = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


class Teacher(NamedTuple):
    """A folder of transformers, and its logits of `TEXTS`: [outputs] of each, or [words, outputs]."""

    folder: Path
    logits: list[np.ndarray]

    def answers(self, names: Sequence[str]) -> list[Any]:
        """The name of the largest output of each text, or of each of its words."""
        return [
            names[int(row.argmax())] if row.ndim == 1 else tuple(names[int(word.argmax())] for word in row)
            for row in self.logits
        ]

    def copy(self, folder: Path, names: Sequence[str] | None = None, **changes: Any) -> Teacher:
        """The model with these names of its outputs (None: without), and other settings of config.json changed."""
        shutil.copytree(self.folder, folder)
        settings = json.loads((folder / "config.json").read_text())
        settings.pop("id2label", None), settings.pop("label2id", None)
        named = {"num_labels": self.logits[0].shape[-1]}
        if names is not None:
            named = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
        (folder / "config.json").write_text(json.dumps({**settings, **named, **changes}))
        return Teacher(folder, self.logits)


def make_teacher(folder: Path, cls: type[Any], outputs: int) -> Teacher:
    """A random BERT of which every output is the largest about as often."""
    tokenizer = wordpiece(TEXTS, 80)
    model = bert(cls, vocab_size=tokenizer.get_vocab_size(), num_labels=outputs)
    tokenizer.save(str(folder / "tokenizer.json"))
    words = cls is BertForTokenClassification

    def logits() -> list[np.ndarray]:
        found = []
        for encoding in tokenizer.encode_batch([text.split() for text in TEXTS], is_pretokenized=True):
            with torch.no_grad():
                row = model(torch.tensor([encoding.ids])).logits[0].numpy()
            firsts = [encoding.word_ids.index(word) for word in range(max(filter(None, encoding.word_ids)) + 1)]
            found.append(row[firsts] if words else row)
        return found

    every = np.concatenate([row.reshape(-1, outputs) for row in logits()])
    mean, deviation = torch.tensor(every.mean(0)), torch.tensor(every.std(0))
    with torch.no_grad():
        model.classifier.weight /= deviation[:, None]
        model.classifier.bias.copy_((model.classifier.bias - mean) / deviation)
    model.save_pretrained(folder)
    return Teacher(folder, logits())


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return make_teacher(tmp_path_factory.mktemp("classes"), BertForSequenceClassification, len(MNLI))


@pytest.fixture(scope="module")
def of_words(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return make_teacher(tmp_path_factory.mktemp("words"), BertForTokenClassification, len(NER))


@pytest.fixture(scope="module")
def of_one_output(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return make_teacher(tmp_path_factory.mktemp("one"), BertForSequenceClassification, 1)


def write_data(folder: Path, labels: Sequence[object], column: str = "label", name: str = "data.jsonl") -> Path:
    rows: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
    if column == "ner_tags":
        rows = [{"tokens": text.split()} for text in TEXTS]
    path = folder / name
    path.write_text("".join(json.dumps({**row, column: label}) + "\n" for row, label in zip(rows, labels, strict=True)))
    return path


def source(model: Path, data: Path, **changes: Any) -> tuple[Source, str]:
    """What a run starts from, and what was said."""
    said: list[str] = []
    given = {"teacher_ready": True, "valid": str(data), "test": str(data), **changes}
    settings = Settings(str(model), str(data), Budget(share=0.5, seq_len=16), **given)
    return load_source(settings, said.append), "\n".join(said)


def logits_of(found: Source) -> np.ndarray:
    """The logits of the run's model: [texts, outputs], or [tokens, outputs]."""
    tokens, model = inputs_of(found).tokens, found.pretrained.model.eval()
    rows = []
    for start, stop in pairwise(tokens.offsets):
        ids = torch.tensor(tokens.ids[None, start:stop].astype(np.int64))
        with torch.no_grad():
            rows.append(model(ids, torch.ones_like(ids)).logits.numpy().reshape(-1, found.pretrained.config.outputs))
    return np.concatenate(rows)


def inputs_of(found: Source) -> Inputs:
    return read(found.tokenizer, found.task, [(text,) for text in TEXTS])


def answers(found: Source) -> list[Any]:
    """The label (of words, the labels) that the model gives every text, by its own task's names."""
    if found.task.kind == "token-classification":
        return [tagged.labels for tagged in inputs_of(found).scores(logits_of(found))]
    return [found.task.labels[int(row.argmax())] for row in logits_of(found)]


@pytest.mark.parametrize("names", [MNLI, ("neutral", "entailment", "contradiction"), tuple(sorted(MNLI))])
def test_classes_are_put_in_the_order_of_the_data(names: Sequence[str], of_classes: Teacher, tmp_path: Path) -> None:
    theirs = of_classes.answers(names)
    found, said = source(of_classes.copy(tmp_path / "m", names).folder, write_data(tmp_path, theirs))
    assert found.task.labels == tuple(sorted(MNLI))
    assert answers(found) == theirs
    ordered = tuple(names) == tuple(sorted(names))
    assert ("put in the order of the labels: contradiction, entailment, neutral." in said) != ordered


def test_labels_of_words_are_put_in_the_order_of_the_data(of_words: Teacher, tmp_path: Path) -> None:
    theirs = of_words.answers(NER)
    found, said = source(of_words.copy(tmp_path / "m", NER).folder, write_data(tmp_path, theirs, "ner_tags"))
    assert found.task.labels == ("O", "B-LOC", "B-PER", "I-LOC", "I-PER")
    assert answers(found) == theirs
    assert "put in the order of the labels: O, B-LOC, B-PER, I-LOC, I-PER." in said


def test_labels_that_the_data_lacks_stay(of_words: Teacher, tmp_path: Path) -> None:
    """The softmax is over all labels of the teacher, as transformers' is."""
    theirs = of_words.answers(NER)
    known = [tuple("O" if tag.endswith("LOC") else tag for tag in row) for row in theirs]
    found, said = source(of_words.copy(tmp_path / "m", NER).folder, write_data(tmp_path, known, "ner_tags"))
    assert found.task.labels == ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    assert answers(found) == theirs
    assert "has labels that the data has not, and keeps them: B-LOC, I-LOC." in said


def test_names_differ_in_case_alone(of_classes: Teacher, tmp_path: Path) -> None:
    theirs = of_classes.answers(MNLI)
    upper = of_classes.copy(tmp_path / "m", [name.upper() for name in MNLI])
    assert answers(source(upper.folder, write_data(tmp_path, theirs))[0]) == theirs


def test_names_that_do_not_match_are_refused_with_both_lists(of_classes: Teacher, tmp_path: Path) -> None:
    made = of_classes.copy(tmp_path / "m", MNLI)
    data = write_data(tmp_path, [number % 3 for number in range(len(TEXTS))])
    both = r"it has no '0'\. The data has 0, 1, 2; id2label .* has contradiction, neutral, entailment\. Give them"
    with pytest.raises(InputError, match=both):
        source(made.folder, data)
    found, _ = source(made.folder, data, teacher_ready=False)
    assert found.pretrained.has_head, "to be fine-tuned, it starts from the head that it has"


@pytest.mark.parametrize("names", [None, ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_labels_without_names_say_nothing_and_the_order_taken_is_printed(
    names: Sequence[str] | None, of_classes: Teacher, tmp_path: Path
) -> None:
    theirs = of_classes.answers(sorted(MNLI))
    found, said = source(of_classes.copy(tmp_path / "m", names).folder, write_data(tmp_path, theirs))
    assert answers(found) == theirs
    assert (
        "The order is taken to be that of the data: output 0 is contradiction, 1 is entailment, 2 is neutral." in said
    )


def test_a_head_to_be_fine_tuned_starts_in_the_order_of_the_data(of_classes: Teacher, tmp_path: Path) -> None:
    """Also where it was for something else: the problem is that of the task."""
    theirs = of_classes.answers(MNLI)
    made = of_classes.copy(tmp_path / "m", MNLI, problem_type="multi_label_classification")
    assert answers(source(made.folder, write_data(tmp_path, theirs), teacher_ready=False)[0]) == theirs


def ours(model: Path, data: Path, **changes: Any) -> Callable[[], np.ndarray]:
    """What the run's model scores `TEXTS`: [texts, classes in the order of their names], or [texts]."""

    def scores() -> np.ndarray:
        found, _ = source(model, data, **changes)
        order = np.argsort(found.task.labels) if found.task.labels else ...
        return found.task.scores(logits_of(found)).reshape(len(TEXTS), -1)[:, order]

    return scores


def pipeline_of(folder: Path) -> np.ndarray:
    """What the pipeline of transformers scores `TEXTS`, likewise."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    classifier = pipeline("text-classification", model=str(folder), tokenizer=tokenizer, top_k=None)
    rows = [sorted(scores, key=lambda one: one["label"]) for scores in classifier(TEXTS)]
    return np.array([[one["score"] for one in row] for row in rows])


MULTIPLE, SINGLE, NUMBER = "multi_label_classification", "single_label_classification", "regression"

SEVERAL = "multi-label-classification"

CASES: list[tuple[str, str, dict[str, Any], str | None]] = [
    ("id2label", "names in another order", {"id2label": dict(enumerate(MNLI[::-1]))}, None),
    ("id2label", "other names", {"id2label": {0: "a", 1: "b", 2: "neutral"}}, None),
    ("id2label", "numbers that are not 0, 1, 2", {"id2label": dict(enumerate(MNLI, 1))}, None),
    ("label2id", "other numbers", {"label2id": {name: number for number, name in enumerate(MNLI[::-1])}}, None),
    ("problem_type", f"`{SINGLE}`, classes", {"problem_type": SINGLE}, None),
    ("problem_type", f"`{MULTIPLE}`, classes", {"problem_type": MULTIPLE}, None),
    ("problem_type", f"`{NUMBER}`, classes", {"problem_type": NUMBER}, None),
    ("problem_type", f"`{MULTIPLE}`, several labels", {"problem_type": MULTIPLE}, SEVERAL),
    ("problem_type", f"`{SINGLE}`, several labels", {"problem_type": SINGLE}, SEVERAL),
    ("problem_type", f"`{MULTIPLE}`, `--task relevance`", {"problem_type": MULTIPLE}, "relevance"),
    ("problem_type", f"`{NUMBER}`, `--task relevance`", {"problem_type": NUMBER}, "relevance"),
    ("problem_type", f"`{NUMBER}`, `--task regression`", {"problem_type": NUMBER}, "regression"),
    ("problem_type", f"`{MULTIPLE}`, `--task regression`", {"problem_type": MULTIPLE}, "regression"),
]
"""Field, what the page shows, what is changed in config.json, and --task (None: of classes)."""


def test_every_setting_of_the_outputs_is_honoured_or_refused(
    of_classes: Teacher, of_one_output: Teacher, tmp_path: Path
) -> None:
    classes = write_data(tmp_path, of_classes.answers(MNLI))
    lists = write_data(tmp_path, [[label] for label in of_classes.answers(MNLI)], name="lists.jsonl")
    numbers = write_data(tmp_path, [number / len(TEXTS) for number in range(len(TEXTS))], name="numbers.jsonl")
    unchanged = {
        "classes": pipeline_of(of_classes.copy(tmp_path / "classes", MNLI).folder),
        "number": pipeline_of(of_one_output.copy(tmp_path / "number").folder),
    }
    rows = []
    for field, values, change, task in CASES:
        kind = "classes" if task in (None, SEVERAL) else "number"
        made, data = (of_classes, lists if task else classes) if kind == "classes" else (of_one_output, numbers)
        folder = made.copy(tmp_path / f"changed{len(rows)}", MNLI if kind == "classes" else None, **change).folder
        try:
            expected = pipeline_of(folder)
        except KeyError:  # the pipeline has no name for an output
            expected = np.full_like(unchanged[kind], np.nan)
        found = verdict(
            field,
            ours(folder, data, task=task),
            not np.allclose(expected, unchanged[kind], rtol=0, atol=1e-6),
            lambda scores, expected=expected: np.allclose(scores, expected, rtol=0, atol=1e-5),
        )
        rows.append(Row("config.json", field, values, found))
    check_section(
        "The outputs of a teacher",
        "With `--teacher-ready`, a sequence classifier of transformers is taken as it is, and scores are those of the "
        "pipeline `text-classification`. Of `...ForTokenClassification`, `id2label` is read likewise.",
        rows,
    )
