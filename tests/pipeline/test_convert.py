"""A dense model becomes an artifact as it is, with the numbers of transformers and sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_folders as folders
import torch
from click.testing import CliRunner
from sentence_folders import PAIRS, TEXTS
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    pipeline,
)
from transformers.utils import logging

import prunetime
from prunetime.cli import main
from prunetime.errors import InputError
from prunetime.pipeline.convert import convert

logging.disable_progress_bar()

MATRICES = [f"layers.{layer}.{name}" for layer in (0, 1) for name in ("query", "attention_output", "ffn_input")]


def converted(folder: Path, **asked: Any) -> tuple[prunetime.Model, list[str]]:
    said: list[str] = []
    convert(str(folder), folder.parent / "artifact", said.append, **asked)
    return prunetime.load(folder.parent / "artifact"), said


def their_logits(folder: Path, auto: Any, *texts: list[str]) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return (
            auto.from_pretrained(folder)
            .eval()(**tokenizer(*texts, padding=True, truncation=True, return_tensors="pt"))
            .logits
        )


def test_classes_have_the_names_and_the_order_of_the_head(tmp_path: Path) -> None:
    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    folder = folders.encoder_folder(tmp_path / "nli", BertForSequenceClassification, id2label=names)
    model, said = converted(folder, text=("premise", "hypothesis"))
    expected = their_logits(folder, BertForSequenceClassification, *map(list, zip(*PAIRS, strict=True))).softmax(1)
    np.testing.assert_allclose(model.score(PAIRS), expected, atol=1e-5)
    assert model.manifest.task.labels == ("contradiction", "neutral", "entailment")
    assert said == [
        "classification of premise and hypothesis, at most 24 tokens, in fp32",
        "labels, in this order: contradiction, neutral, entailment",
    ]


@pytest.mark.parametrize(("problem_type", "kind"), [(None, "relevance"), ("regression", "regression")])
def test_one_output_is_what_its_problem_type_says(problem_type: str | None, kind: str, tmp_path: Path) -> None:
    folder = folders.encoder_folder(
        tmp_path / "one", BertForSequenceClassification, num_labels=1, problem_type=problem_type
    )
    model, _ = converted(folder)
    theirs = pipeline("text-classification", model=str(folder), top_k=None)
    expected = [each[0]["score"] for each in theirs(TEXTS, truncation=True)]
    np.testing.assert_allclose(model.score(TEXTS), expected, atol=1e-5)
    assert model.manifest.task.kind == kind


def test_words_get_the_labels_of_the_head(tmp_path: Path) -> None:
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    folder = folders.encoder_folder(tmp_path / "ner", BertForTokenClassification, id2label=names)
    model, _ = converted(folder)
    logits = their_logits(folder, BertForTokenClassification, TEXTS[:1])[0]
    words = AutoTokenizer.from_pretrained(folder)(TEXTS[0].split(), is_split_into_words=True).word_ids()
    first = [words.index(word) for word in range(len(TEXTS[0].split()))]
    assert list(model.score(TEXTS[:1])[0].labels) == [names[int(label)] for label in logits[first].argmax(1)]


def test_answers_are_those_of_the_head(tmp_path: Path) -> None:
    folder = folders.encoder_folder(tmp_path / "qa", BertForQuestionAnswering, num_labels=2)
    model, _ = converted(folder)
    question, context = PAIRS[0]
    encoded = AutoTokenizer.from_pretrained(folder)(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0]
    with torch.no_grad():
        theirs = BertForQuestionAnswering.from_pretrained(folder).eval()(**encoded)
    sums = (theirs.start_logits[0][:, None] + theirs.end_logits[0][None, :]).triu()
    of_context = torch.tensor([number == 1 for number in encoded.sequence_ids(0)])
    sums = sums.masked_fill(~(of_context[:, None] & of_context[None, :]), -torch.inf)
    start, end = divmod(int(sums.argmax()), len(of_context))
    answer = model.score([(question, context)])[0]
    assert (answer.start, answer.text) == (int(offsets[start][0]), context[offsets[start][0] : offsets[end][1]])


def test_embeddings_of_a_sentence_transformer(tmp_path: Path) -> None:
    folder = folders.sentence_folder(tmp_path / "st", Normalize(), prompts={"query": "velvet couch: "})
    model, _ = converted(folder)
    theirs = SentenceTransformer(str(folder))
    np.testing.assert_allclose(model.embed(TEXTS), theirs.encode(TEXTS), atol=1e-5)
    expected = theirs.encode(TEXTS, prompt_name="query")
    np.testing.assert_allclose(model.embed(TEXTS, prompt_name="query"), expected, atol=1e-5)


def test_a_modular_cross_encoder_keeps_its_trained_head(tmp_path: Path) -> None:
    folder = folders.modular_cross_encoder_folder(tmp_path / "ce")
    model, _ = converted(folder)
    np.testing.assert_allclose(model.predict(PAIRS), CrossEncoder(str(folder)).predict(PAIRS), atol=1e-5)
    assert model.manifest.task.text == ("query", "text")


def test_int8_is_the_plan_of_every_matrix(tmp_path: Path) -> None:
    folder = folders.encoder_folder(tmp_path / "one", BertForSequenceClassification)
    model, _ = converted(folder, precision="int8")
    assert {model.engine.precision[name] for name in MATRICES} == {"int8"}


@pytest.mark.parametrize(
    ("auto", "settings", "asked", "message"),
    [
        (BertForMaskedLM, {}, {}, "has no head for a task .*BertForMaskedLM.*--task similarity"),
        (BertForMultipleChoice, {}, {}, "has no head for a task .*BertForMultipleChoice"),
        (BertForQuestionAnswering, {}, {"kind": "classification"}, "has no head for classification"),
        (BertForSequenceClassification, {"num_labels": 3}, {"kind": "relevance"}, "has 3 labels .* relevance has one"),
        (BertForSequenceClassification, {"num_labels": 1}, {"kind": "classification"}, "has one output"),
        (
            BertForSequenceClassification,
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            {"kind": "classification"},
            "problem_type 'multi_label_classification' with 3 labels is multi-label-classification, not classification",
        ),
        (BertForSequenceClassification, {}, {"seq_len": 65}, "--seq-len 65 is longer than the 64 positions"),
    ],
)
def test_a_model_without_such_a_head_is_refused(
    auto: Any, settings: dict[str, Any], asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = folders.encoder_folder(tmp_path / "model", auto, **settings)
    with pytest.raises(InputError, match=message):
        converted(folder, **asked)
    assert not (tmp_path / "artifact").exists()


def test_an_encoder_alone_gives_embeddings_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = folders.encoder_folder(tmp_path / "mlm", BertForMaskedLM)
    model, _ = converted(folder, kind="similarity")
    np.testing.assert_allclose(np.linalg.norm(model.embed(TEXTS), axis=1), 1.0, atol=1e-5)


def test_a_folder_without_a_limit_has_that_of_its_position_table(tmp_path: Path) -> None:
    folder = folders.encoder_folder(tmp_path / "bare")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["model_max_length"]
    file.write_text(json.dumps(settings))
    model, said = converted(folder, kind="similarity")
    assert said == ["similarity of text and other, at most 64 tokens, in fp32"]
    assert model.manifest.task.max_length == 64


def test_an_artifact_and_a_folder_that_is_there_are_refused(tmp_path: Path) -> None:
    folder = folders.encoder_folder(tmp_path / "model", BertForSequenceClassification)
    converted(folder)
    with pytest.raises(InputError, match="artifact is an artifact already"):
        convert(str(tmp_path / "artifact"), tmp_path / "again", print)
    with pytest.raises(InputError, match=r"artifact exists: choose another --out"):
        converted(folder)


def test_every_command_takes_what_was_converted(tmp_path: Path) -> None:
    folder = folders.encoder_folder(tmp_path / "model", BertForSequenceClassification, num_labels=2)
    out, data = tmp_path / "artifact", tmp_path / "rows.tsv"
    data.write_text("text\tlabel\n" + "".join(f"{text}\tLABEL_{n % 2}\n" for n, text in enumerate(TEXTS * 4)))

    def run(*arguments: object) -> dict[str, Any]:
        done = CliRunner().invoke(main, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout.strip().splitlines()[-1])

    made = run("convert", folder, "--out", out, "--precision", "int8", "--seq-len", 24)
    expected = {"task": "classification", "labels": ["LABEL_0", "LABEL_1"], "max_length": 24, "precision": "int8"}
    assert made == {"artifact": str(out), **expected}
    assert run("inspect", out)["encoder_weights"] == run("inspect", out)["dense_encoder_weights"]
    assert "# bert, run by prunetime" in (out / "model_card.md").read_text()
    assert len(run("score", out, "--text", TEXTS[0])["scores"]) == 1
    assert run("eval", out, "--data", data, "--label", "label")["rows"] == 4 * len(TEXTS)
    assert Path(run("export", out, "--to", "onnx", "--out", tmp_path / "model.onnx")["file"]).is_file()
