"""Data without labels: the model is the teacher, its answers are what is kept, and the verdict is agreement with it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import run
from inputs_page import Row, check_section, verdict
from quiet import TIMING, Quiet, count_time
from tiny import FEW_ROWS, QUICK_PRUNETIME, bert_folder, last_object, write_tsv
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast, TextClassificationPipeline

import prunetime
from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.inference.reading import read
from prunetime.models.distill import Distillation
from prunetime.models.encoder import from_weights, weights_of
from prunetime.models.heads import PROBLEM_TYPES
from prunetime.pipeline.auto import prune_by_all_methods
from prunetime.pipeline.prune import pick
from prunetime.pipeline.source import Source, load_source
from prunetime.pruning.importance import measure_importance
from prunetime.settings import Settings
from prunetime.tasks.metrics import AGREEMENT, agreed_labels
from prunetime.tasks.synthetic import ad_relevance
from prunetime.tasks.table import Table
from prunetime.training.settings import TrainingSettings
from prunetime.training.trainer import fit

ROWS = 800
TITLES = ad_relevance(4, 3).columns["title"]

Scores = list[dict[str, float]]


def without_labels(*columns: str) -> Table:
    whole = ad_relevance(ROWS, 0)
    return Table("ads", {name: whole.columns[name] for name in columns})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT, classifiers of it with heads that nobody trained, and ads with labels, without, and as single texts."""
    folder = tmp_path_factory.mktemp("unlabelled")
    bert_folder(folder / "bert")
    for outputs in (1, 2, 3):
        torch.manual_seed(0)
        with_head = BertForSequenceClassification.from_pretrained(folder / "bert", num_labels=outputs)
        torch.nn.init.normal_(with_head.classifier.weight)
        with_head.save_pretrained(folder / f"of-{outputs}")
        (folder / f"of-{outputs}" / "tokenizer.json").write_bytes((folder / "bert" / "tokenizer.json").read_bytes())
    write_tsv(without_labels("query", "title"), folder / "pairs.tsv")
    write_tsv(without_labels("title"), folder / "texts.tsv", slice(400))
    write_tsv(ad_relevance(300, 1), folder / "labelled.tsv")
    return folder


def source(folder: Path, model: str, data: str, **more: Any) -> tuple[Source, str]:
    said: list[str] = []
    given: dict[str, Any] = {"teacher_ready": True} | more
    given |= {role: str(folder / given[role]) for role in ("valid", "test") if role in given}
    settings = Settings(str(folder / model), str(folder / data), Budget(share=0.7, seq_len=24), **given)
    return load_source(settings, said.append), "\n".join(said)


def prune(folder: Path, model: str, data: str, out: Path, *more: str) -> dict[str, Any]:
    command = [*QUICK_PRUNETIME, "prune", "--model", str(folder / model), "--data", str(folder / data), *more]
    ran = run(
        [
            *command,
            "--latency",
            "70%",
            "--seq-len",
            "24",
            "--effort",
            "quick",
            "--precision",
            "fp32",
            "--out",
            str(out),
            "--json",
        ]
    )
    assert ran.returncode == 0, ran.stderr
    return last_object(ran.stdout)


def test_pairs_without_labels(folder: Path, tmp_path: Path) -> None:
    found = prune(
        folder,
        "of-1",
        "pairs.tsv",
        tmp_path / "run",
        "--teacher-ready",
        "--task",
        "regression",
        "--test",
        str(folder / "labelled.tsv"),
    )
    quality = json.loads((tmp_path / "run" / "verify.json").read_text())["quality"]["all"]
    assert found["dense"]["metric"] == "spearman"
    assert -1.0 <= quality["agreement"]["ci95"][0] <= quality["agreement"]["value"] <= 1.0
    assert quality["agreement"]["rows"] == 300
    model, teacher = prunetime.load(found["artifact"]), prunetime.load(str(tmp_path / "run" / "teacher"))
    table = ad_relevance(300, 1)
    texts = list(zip(table.columns["query"], table.columns["title"], strict=True))
    ranks = [np.argsort(np.argsort(one.score(texts))) for one in (model, teacher)]
    assert quality["agreement"]["value"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=2e-3)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "trained on no labels" in page
    assert f"agree with the dense one\N{RIGHT SINGLE QUOTATION MARK}s by {quality['agreement']['value']:.4f}" in page


def test_similarity_from_single_texts(folder: Path, tmp_path: Path) -> None:
    found = prune(folder, "bert", "texts.tsv", tmp_path / "run", "--task", "similarity")
    assert (found["dense"]["metric"], found["dense"]["value"]) == ("agreement", 1.0)
    assert 0.0 < found["pruned"]["ci95"][0] <= found["pruned"]["value"] <= 1.0
    dense = prunetime.load(str(tmp_path / "run" / "teacher"))
    model = prunetime.load(found["artifact"])
    texts = ad_relevance(50, 2).columns["title"]
    untouched, _ = source(folder, "bert", "texts.tsv", teacher_ready=False, task="similarity")
    same = artifact.read(tmp_path / "run" / "teacher").weights
    for name, array in weights_of(untouched.pretrained.model).items():
        np.testing.assert_array_equal(same[name], array)
    cosines = (model.embed(texts) * dense.embed(texts)).sum(axis=1)
    assert cosines.mean() > 0.5


def test_the_task_is_the_models(folder: Path) -> None:
    of_one, said = source(folder, "of-1", "pairs.tsv")
    assert (of_one.task.kind, of_one.task.text, of_one.columns.label) == ("relevance", ("query", "title"), "")
    assert "pairs.tsv has no labels: " in said
    assert "the metric is agreement with it" in said
    assert (of_one.metric, of_one.valid_metric) == (AGREEMENT, AGREEMENT)
    of_three, _ = source(folder, "of-3", "pairs.tsv")
    assert (of_three.task.kind, of_three.task.labels) == ("classification", ("LABEL_0", "LABEL_1", "LABEL_2"))
    assert source(folder, "of-1", "pairs.tsv", task="regression")[0].task.kind == "regression"


def test_classes_without_names_are_those_of_labelled_rows(folder: Path) -> None:
    of_two, said = source(folder, "of-2", "pairs.tsv", test="labelled.tsv", text=("query", "title"))
    assert of_two.task.labels == ("0", "1")
    assert "does not name its labels" in said
    assert (of_two.metric.name, of_two.valid_metric) == ("auc", AGREEMENT)
    assert of_two.roles.test.labelled
    assert not of_two.roles.valid.labelled
    named, _ = source(folder, "of-2", "pairs.tsv", valid="labelled.tsv", label="label", text=("query", "title"))
    assert named.metric is not AGREEMENT  # half of the valid rows are test rows


def test_single_texts_are_beside_others_of_their_role(folder: Path) -> None:
    found, _ = source(folder, "bert", "texts.tsv", teacher_ready=False, task="similarity")
    assert found.task.text == ("title", "other")
    for role in (found.roles.train, found.roles.valid, found.roles.test):
        first, other = zip(*role.texts, strict=True)
        assert sorted(first) == sorted(other)
        assert sum(a == b for a, b in role.texts) < len(role) / 20
    again, _ = source(folder, "bert", "texts.tsv", teacher_ready=False, task="similarity")
    assert again.roles.train.texts == found.roles.train.texts


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("bert", {"teacher_ready": False}, r"Without labels no teacher can be fine-tuned: give --teacher-ready"),
        ("bert", {}, r"has no head for a task"),
        ("of-1", {"metric": "auc", "task": "relevance"}, r"--metric auc needs labels, and neither valid nor test"),
        ("of-1", {"label": "grade"}, r"has no column 'grade'"),
        ("of-1", {"doc_stride": 4}, r"reads no windows; leave --doc-stride out"),
    ],
)
def test_what_needs_labels_is_refused(folder: Path, model: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        source(folder, model, "pairs.tsv", **more)


@pytest.mark.parametrize(("kind", "scores"), [("softmax", 3), ("softmax", 2), ("identity", 1)])
def test_agreement_is_that_of_references(folder: Path, kind: str, scores: int) -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import accuracy_score

    task = source(folder, f"of-{scores}", "pairs.tsv", task="regression" if scores == 1 else None)[0].task
    assert task.traits.score == kind
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((400, scores)).astype(np.float32)
    one, other = (task.scores(logits + noise) for noise in (0.0, rng.standard_normal(logits.shape).astype(np.float32)))
    found = AGREEMENT.value(one, agreed_labels(task, other), np.arange(400))
    if scores == 1:
        assert found == pytest.approx(spearmanr(one, other).statistic)
    else:
        classes = [each.argmax(1) if each.ndim == 2 else each > 0.5 for each in (one, other)]
        assert found == pytest.approx(accuracy_score(*classes))
    assert AGREEMENT.value(one, agreed_labels(task, one), np.arange(400)) == 1.0


def test_training_reads_no_label_where_there_is_none(folder: Path, tmp_path: Path) -> None:
    found, _ = source(folder, "of-2", "pairs.tsv")
    data, dense = found.training_data(64, 0), found.pretrained
    assert not data.labelled

    def trained(labels: np.ndarray, task: float) -> bytes:
        model, teacher = (from_weights(dense.config, weights_of(dense.model)) for _ in range(2))
        settings = TrainingSettings(1, learning_rate=1e-3, distillation=Distillation(task=task))
        with torch.no_grad():
            model.head.output.weight.mul_(0.5)
        fit(model, replace(data, labels=labels), settings, tmp_path / f"{labels.sum()} {task}", teacher)
        return model.head.output.weight.detach().numpy().tobytes()

    zeros, ones = np.zeros(64), np.ones(64)
    assert trained(zeros, 0.0) == trained(ones, 0.0)
    assert trained(zeros, 1.0) != trained(ones, 1.0)


def test_importance_without_labels_is_the_fisher_information(folder: Path) -> None:
    """Of one logit z with a squared error the expectation over labels z + N(0, 1) is 4 (dz/dm)^2, whatever z is."""
    found, _ = source(folder, "of-1", "pairs.tsv", task="regression")
    data, model = found.training_data(256, 0), found.pretrained.model
    scores = measure_importance(model, data, rows=256)
    halves = [replace(data, labels=np.array(model_logits(model, data)) + sign, labelled=True) for sign in (1.0, -1.0)]
    exact = [measure_importance(model, half, rows=256) for half in halves]
    for layer, (plus, minus) in enumerate(zip(*exact, strict=True)):
        expected = (plus["heads"] + minus["heads"]) / 2
        np.testing.assert_allclose(scores[layer]["heads"], expected, rtol=0.5)
        assert np.corrcoef(scores[layer]["ffn"], (plus["ffn"] + minus["ffn"]) / 2)[0, 1] > 0.95
    empty = replace(data, labels=np.array(model_logits(model, data)), labelled=True)
    assert measure_importance(model, empty, rows=256)[0]["heads"].max() < 1e-6 * scores[0]["heads"].max()
    assert all(
        (one["ffn"] == other["ffn"]).all()
        for one, other in zip(scores, measure_importance(model, data, rows=256), strict=True)
    )


def model_logits(model: Any, data: Any) -> list[float]:
    batch = data.batch(range(len(data)))
    batch.pop("labels")
    model.eval()
    with torch.no_grad():
        return [float(row[0]) for row in model(**batch).logits]


def test_the_outputs_of_the_model_make_the_task(folder: Path, tmp_path: Path) -> None:
    """Scores are those of transformers' pipeline, which goes by `problem_type` and the number of labels."""
    names = {"id2label": {"0": "bad", "1": "fair", "2": "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}
    cases = [
        ("of-1", "problem_type", "`regression`, one output", {"problem_type": "regression"}),
        (
            "of-1",
            "problem_type",
            "`multi_label_classification`, one output",
            {"problem_type": PROBLEM_TYPES["relevance"]},
        ),
        ("of-3", "problem_type", "`regression`, three outputs", {"problem_type": "regression"}),
        ("of-3", "id2label", "names", names),
    ]
    rows = []
    for number, (model, field, values, changes) in enumerate(cases):
        changed = tmp_path / str(number)
        shutil.copytree(folder / model, changed)
        settings = json.loads((changed / "config.json").read_text())
        (changed / "config.json").write_text(json.dumps(settings | changes))
        before, after = scores_of_pipeline(folder / model), scores_of_pipeline(changed)
        ours = partial(scores_of_source, folder, str(changed))
        found = verdict(field, ours, before != after, lambda scores, after=after: scores == approx_by_name(after))
        rows.append(Row("config.json", field, values, found))
    check_section(
        "The task of data without labels",
        "Without labels the task is what the model's head is for, and scores are those of the pipeline "
        "`text-classification`.",
        rows,
    )


def scores_of_pipeline(model: Path) -> Scores:
    """Of the first titles, by name where there are several outputs."""
    classifier = BertForSequenceClassification.from_pretrained(model)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(model / "tokenizer.json"), pad_token="[PAD]")
    pipeline = TextClassificationPipeline(model=classifier, tokenizer=tokenizer, top_k=None)
    found = [
        {each["label"]: each["score"] for each in of_one} for of_one in pipeline(TITLES, truncation=True, max_length=24)
    ]
    return [of_one if len(of_one) > 1 else {"": next(iter(of_one.values()))} for of_one in found]


def scores_of_source(folder: Path, model: str) -> Scores:
    found, _ = source(folder, model, "texts.tsv")
    engine = Engine(found.pretrained.config, weights_of(found.pretrained.model))
    tokens = read(found.tokenizer, found.task, [(title,) for title in TITLES]).tokens
    scores = found.task.scores(engine.logits(tokens)).reshape(len(TITLES), -1)
    return [dict(zip(found.task.labels or ("",), map(float, of_one), strict=True)) for of_one in scores]


def approx_by_name(scores: Scores) -> Any:
    return [pytest.approx(of_one, abs=1e-4) for of_one in scores]


def test_of_all_methods_none_is_tried_after_a_precision_alone_is_inside_the_budget(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is kept is chosen by the answers of the teacher that it has."""
    count_time(monkeypatch)
    data, budget = str(folder / "pairs.tsv"), Budget(share=0.9, seq_len=24)
    settings = Settings(
        str(folder / "of-2"), data, budget, teacher_ready=True, max_loss=1.0, method="auto", effort=RunPlan(**FEW_ROWS)
    )
    out, reporter = tmp_path / "run", Quiet()
    result = prune_by_all_methods(replace(settings, timing=TIMING), out, reporter)
    assert result["method"] == "multilevel"
    assert result["valid"].keys() == {"multilevel"}
    assert reporter.stages.count("Take the model as the teacher") == 1
    assert "multilevel is kept: nothing has to be pruned, so the other methods are not tried" in reporter.said
    assert not (out / "search").exists()
    assert "Budget met" in (out / "report.html").read_text()
    with pytest.raises(InputError, match="nothing was searched; run `prunetime prune` with the other budget"):
        pick(out, Budget.parse("30%"), tmp_path / "other", reporter)
