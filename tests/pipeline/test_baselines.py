"""How the teacher stands beside models that take seconds: figures as scikit-learn and transformers have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quiet import Quiet
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from tiny import FEW_ROWS, bert_folder, write_tsv
from transformers import AutoModel, AutoTokenizer

from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.core.precision import PrecisionPlan
from prunetime.pipeline.context import Context
from prunetime.pipeline.planning import rate_of_width
from prunetime.pipeline.run import Run
from prunetime.pipeline.stages.baselines import compare_baselines, sentences
from prunetime.pipeline.stages.teacher import train_teacher
from prunetime.pipeline.student import engine_of
from prunetime.settings import Settings
from prunetime.tasks.synthetic import ad_relevance, intents

EFFORT = RunPlan(**(FEW_ROWS | {"teacher_rows": 320}))


def compared(folder: Path, settings: Settings) -> tuple[Context, dict[str, Any], list[str]]:
    """A run up to the comparison of its teacher."""
    heard = Quiet()
    folder.mkdir()
    context = Context(Run(folder, heard), settings)
    context.run.write("plan.json", PrecisionPlan().to_json())
    train_teacher(context)
    heard.said.clear()
    compare_baselines(context)
    return context, json.loads((folder / "baselines.json").read_text()), heard.said


def test_of_pairs_they_are_those_of_scikit_learn_and_transformers(tmp_path: Path) -> None:
    bert, data = bert_folder(tmp_path / "bert"), write_tsv(ad_relevance(900, 0), tmp_path / "ads.tsv")
    settings = Settings(
        str(bert), str(data), Budget(share=0.5, seq_len=32), text=("query", "title"), label="label", effort=EFFORT
    )
    context, record, (said, *_) = compared(tmp_path / "run", settings)
    train, valid = context.source.roles.train, context.source.roles.valid
    assert (record["metric"], record["rows"], set(record["baselines"])) == (
        "auc", len(valid), {"tfidf", "embeddings", "cosine"}
    )  # fmt: skip

    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()

    def embedded(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            rows = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        return (rows * mask).sum(1) / mask.sum(1)

    first, second = (embedded([row[at] for row in valid.texts]) for at in (0, 1))
    cosines = torch.nn.functional.cosine_similarity(first, second).numpy()
    auc = roc_auc_score(valid.labels, cosines)
    found = record["baselines"]["cosine"]["value"]  # whether alike texts are good ones is learned from train rows
    assert min(abs(found - auc), abs(found - (1 - auc))) < 0.01  # it is of int8

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]")
    words.fit([text for row in train.texts for text in row])

    def features(texts: list[tuple[str, ...]]) -> np.ndarray[Any, Any]:
        query, title = (words.transform([row[at] for row in texts]).toarray() for at in (0, 1))
        return np.hstack((query, title, query * title, (query * title).sum(1, keepdims=True)))

    linear = LogisticRegression(C=10, max_iter=1000).fit(features(train.texts), train.labels)
    auc = roc_auc_score(valid.labels, linear.decision_function(features(valid.texts)))
    assert record["baselines"]["tfidf"]["value"] == pytest.approx(auc, abs=0.03)

    teacher = context.source.valid.scores(engine_of(context.teacher).logits(context.source.valid.tokens))
    assert record["teacher"]["value"] == pytest.approx(roc_auc_score(valid.labels, teacher))
    for one in record["baselines"].values():
        assert one["difference"]["value"] == pytest.approx(record["teacher"]["value"] - one["value"])
    assert f"{record['teacher']['value']:.4f}" in said
    assert "TF-IDF" in said

    modified = (tmp_path / "run" / "baselines.json").stat().st_mtime_ns
    compare_baselines(context)
    assert (tmp_path / "run" / "baselines.json").stat().st_mtime_ns == modified


def test_a_teacher_below_a_baseline_is_warned_of(tmp_path: Path) -> None:
    """77 classes on few rows, and an encoder with random weights: words say more than it does."""
    table = intents(1500, 0)
    bert = bert_folder(tmp_path / "bert", texts=table.columns["text"])
    data = str(write_tsv(table, tmp_path / "intents.tsv"))
    settings = Settings(str(bert), data, Budget(share=0.5, seq_len=24), text=("text",), label="intent", effort=EFFORT)
    context, record, (_, warning) = compared(tmp_path / "run", settings)
    assert set(record["baselines"]) == {"tfidf", "embeddings"}
    assert "the teacher is below TF-IDF" in warning
    assert "--effort" in warning
    train, valid = context.source.roles.train, context.source.roles.valid
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\w+|[^\w\s]")
    linear = LogisticRegression(C=10).fit(words.fit_transform([text for (text,) in train.texts]), train.labels)
    predicted = linear.predict(words.transform([text for (text,) in valid.texts]))
    assert record["baselines"]["tfidf"]["value"] == pytest.approx(accuracy_score(valid.labels, predicted), abs=0.06)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_whether_lower_is_worse_depends_on_the_metric(higher_is_better: bool) -> None:
    low = {"value": 0.4, "ci95": [0.3, 0.5], "difference": {"value": 0.1, "ci95": [0.05, 0.15]}}
    record = {"metric": "any", "rows": 50, "teacher": {"value": 0.5, "ci95": [0.4, 0.6]}, "baselines": {"tfidf": low}}
    assert len(sentences(record, lambda value: value if higher_is_better else -value)) == 2 - higher_is_better


def test_a_task_of_tokens_has_none_and_says_so(tmp_path: Path) -> None:
    bert = str(bert_folder(tmp_path / "bert"))
    data = "synthetic:product-entities?rows=300"
    _, record, (said,) = compared(tmp_path / "run", Settings(bert, data, Budget(share=0.5, seq_len=24), effort=EFFORT))
    assert (record["rows"], record["baselines"]) == (0, {})
    assert "token-classification has no baselines" in said


def test_a_wider_encoder_learns_at_a_lower_rate() -> None:
    rates = [rate_of_width(hidden) for hidden in (64, 384, 768, 1024)]
    assert rates == pytest.approx([7e-5, 7e-5, 3.5e-5, 2.625e-5])
