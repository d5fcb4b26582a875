"""Several labels a text, and data without any: the teacher's labels, at its own threshold, are what is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quiet import TIMING, Quiet, count_time
from sklearn.metrics import f1_score
from tiny import FEW_ROWS, bert_folder, distilbert_folder, write_tsv
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast, TextClassificationPipeline

import prunetime
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.core.precision import PrecisionPlan
from prunetime.inference.engine import Engine
from prunetime.models.encoder import weights_of
from prunetime.pipeline.prune import prune
from prunetime.pipeline.source import load_source
from prunetime.pipeline.stages.verify import quality, scores_on_test
from prunetime.pipeline.student import manifest_of, write_artifact
from prunetime.settings import Settings
from prunetime.tasks.metrics import AGREEMENT
from prunetime.tasks.synthetic import ad_relevance
from prunetime.tasks.table import Table

LABELS = ("for", "cotton", "steel")
ROWS = {"tune_rows": 160, "evaluations": 30, "score_rows": 100, "importance_rows": 64}
PLAN = RunPlan(**FEW_ROWS | ROWS | {"looks": 2, "compares": True})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of `LABELS`, texts without labels, and others with lists of them."""
    folder = tmp_path_factory.mktemp("several")
    torch.manual_seed(0)
    teacher = BertForSequenceClassification.from_pretrained(
        bert_folder(folder / "bert"), problem_type="multi_label_classification", id2label=dict(enumerate(LABELS))
    )
    torch.nn.init.normal_(teacher.classifier.weight)
    teacher.save_pretrained(folder / "teacher")
    (folder / "teacher/tokenizer.json").write_bytes((folder / "bert/tokenizer.json").read_bytes())
    titles = ad_relevance(600, 0).columns["title"]
    distilbert_folder(folder / "small", titles)
    write_tsv(Table("texts", {"title": titles}), folder / "texts.tsv")
    others = ad_relevance(200, 1).columns["title"]
    has = [json.dumps([label for label in LABELS if label in title.lower().split()]) for title in others]
    write_tsv(Table("labelled", {"title": others, "lists": has}), folder / "labelled.tsv")
    return folder


def settings_of(folder: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {"text": ("title",), "teacher_ready": True, "effort": PLAN, "timing": TIMING} | more
    model = str(given.pop("model", folder / "teacher"))
    return Settings(model, str(folder / "texts.tsv"), Budget(share=0.7, seq_len=24), **given)


def of_transformers(folder: Path, texts: list[str]) -> np.ndarray:
    """The labels [texts, labels] that the pipeline of transformers gives with at least a half."""
    model = BertForSequenceClassification.from_pretrained(folder / "teacher")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "teacher/tokenizer.json"), pad_token="[PAD]")
    pipeline = TextClassificationPipeline(model=model, tokenizer=tokenizer, top_k=None)
    found = [{each["label"]: each["score"] for each in row} for row in pipeline(texts, truncation=True, max_length=24)]
    return np.array([[row[label] >= 0.5 for label in LABELS] for row in found])


def test_a_run_without_labels_keeps_those_of_its_teacher(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_time(monkeypatch)
    monkeypatch.setattr("prunetime.baselines.libraries.find_spec", lambda _: None)
    test, beside = str(folder / "labelled.tsv"), (str(folder / "small"),)
    settings = settings_of(folder, test=test, label="lists", precision="fp32", beside=beside)
    result = prune(settings, tmp_path / "run", Quiet())
    measured = json.loads((tmp_path / "run/verify.json").read_text())["quality"]["all"]
    teacher, model = prunetime.load(tmp_path / "run/teacher"), prunetime.load(result["artifact"])
    assert teacher.manifest.task.threshold == model.manifest.task.threshold == 0.5
    assert teacher.manifest.task.labels == LABELS
    texts = ad_relevance(200, 1).columns["title"]
    truth = np.array([[label in title.lower().split() for label in LABELS] for title in texts])
    given = {"dense": of_transformers(folder, texts), "pruned": model.score(texts) >= 0.5}
    for name, labels in given.items():
        assert measured[name]["value"] == pytest.approx(f1_score(truth, labels, average="micro"))
    assert measured["agreement"]["value"] == pytest.approx((given["dense"] == given["pruned"]).mean())
    assert measured["agreement"]["value"] > 0.7


def test_where_no_row_has_labels_the_verdict_is_agreement_at_the_threshold_of_the_teacher(
    folder: Path, tmp_path: Path
) -> None:
    read = load_source(settings_of(folder), lambda _: None)
    assert (read.metric, read.valid_metric) == (AGREEMENT, AGREEMENT)
    config, weights = read.pretrained.config, weights_of(read.pretrained.model)
    source = replace(read, task=replace(read.task, threshold=0.2))
    write_artifact(tmp_path / "ours", source, manifest_of(source, read.pretrained.model, PrecisionPlan(), {}), weights)
    source = load_source(settings_of(folder, model=tmp_path / "ours"), lambda _: None)
    assert source.task.threshold == 0.2
    engines = {"dense": Engine(config, weights), "pruned": Engine(config, weights, plan=PrecisionPlan.uniform("int8"))}
    measured = quality(source, scores_on_test(source, engines))["all"]
    assert measured["dense"]["value"] == 1.0
    labels = [source.task.scores(engine.logits(source.test.tokens)) >= 0.2 for engine in engines.values()]
    assert measured["pruned"]["value"] == pytest.approx((labels[0] == labels[1]).mean())
