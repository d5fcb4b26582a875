"""Another pretrained model, of another shape and with another vocabulary, is tuned alike and stands beside the pruned
one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from quiet import TIMING, Quiet, count_time
from safetensors.numpy import save_file
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from tiny import FEW_ROWS, bert_folder, distilbert_folder, wordpiece, write_tsv
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertForTokenClassification,
)

import prunetime
from prunetime.baselines.static import StaticModel
from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.inference.reading import read
from prunetime.models.encoder import weights_of
from prunetime.pipeline import student
from prunetime.pipeline.beside import StaticSource, load_beside
from prunetime.pipeline.context import Context
from prunetime.pipeline.prune import prune
from prunetime.pipeline.run import Run
from prunetime.pipeline.source import load_source
from prunetime.pipeline.stages import libraries
from prunetime.pipeline.stages.alternatives import PRUNED, REFERENCE
from prunetime.pipeline.student import tuning_seed
from prunetime.settings import Settings
from prunetime.tasks.table import Table

WORDS = ["red", "blue", "large", "small", "old", "new", "sofa", "lamp", "chair", "table", "garden", "wood", "velvet"]
SHORT = {"teacher_rows": 320, "teacher_epochs": 2, "tune_rows": 400, "tune_epochs": 3, "tune_learning_rate": 1e-3}
PLAN = RunPlan(**FEW_ROWS | SHORT | {"looks": 2})


def moods(rows: int) -> Table:
    """Texts of a few words, of which one says the label."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, rows)
    texts = []
    for label in labels:
        words = [*draw.choice(WORDS, draw.integers(3, 8)), ("awful", "lovely")[label]]
        texts.append(" ".join(draw.permutation(words)))
    return Table("moods", {"text": texts, "label": [("bad", "good")[label] for label in labels]})


def static_folder(folder: Path, texts: list[str]) -> Path:
    """A static embedding, as model2vec writes it."""
    folder.mkdir()
    tokenizer = wordpiece(texts)
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.random.default_rng(4).normal(size=(tokenizer.get_vocab_size(), 24)).astype(np.float32)
    save_file({"embeddings": vectors}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


def with_head(folder: Path, out: Path, names: list[str] | None = None, head: Any = None, **config: Any) -> Path:
    torch.manual_seed(2)
    named = {"id2label": dict(enumerate(names))} if names else {"num_labels": 3}
    (head or BertForSequenceClassification).from_pretrained(folder, **named, **config).save_pretrained(out)
    shutil.copy(folder / "tokenizer.json", out)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT to which all words are unknown, one that reads words, a small DistilBERT that does, and moods."""
    folder = tmp_path_factory.mktemp("beside")
    table = moods(700)
    write_tsv(table, folder / "moods.tsv")
    bert_folder(folder / "bert", texts=[""])
    bert_folder(folder / "able", texts=table.columns["text"])
    distilbert_folder(folder / "small", table.columns["text"])
    static_folder(folder / "static", table.columns["text"])
    return folder


def settings_of(folder: Path, *beside: str, **more: Any) -> Settings:
    """A budget that the model meets in int8, so that nothing is searched."""
    given: dict[str, Any] = {"model": "bert", "data": "moods.tsv", "text": ("text",), "label": "label"} | more
    given |= {name: str(folder / given[name]) for name in ("model", "data") if ":" not in given[name]}
    models, budget = tuple(str(folder / name) for name in beside), Budget(share=0.9, seq_len=16)
    return Settings(**{"budget": budget, "beside": models, "effort": PLAN, "timing": TIMING, "max_loss": 0.05} | given)


@pytest.fixture(scope="module")
def beside(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run whose own model cannot learn, with the small model beside it; its trainings, by folder."""
    out, reporter, trainings = tmp_path_factory.mktemp("runs") / "beside", Quiet(), dict[str, Any]()
    fit: Callable[..., Any] = student.fit_on_every_rank

    def noted(model: Any, data: Any, settings: Any, work: Path, teacher: Any = None, *more: Any, **others: Any) -> Any:
        trainings[work.name] = SimpleNamespace(data=data, settings=settings, teacher=teacher)
        return fit(model, data, settings, work, teacher, *more, **others)

    with pytest.MonkeyPatch.context() as patch:
        count_time(patch)
        patch.setattr(libraries, "LIBRARIES", {})
        patch.setattr(student, "fit_on_every_rank", noted)
        prune(settings_of(folder, "small"), out, reporter)
    context = Context(Run(out, reporter), settings_of(folder, "small"))
    return SimpleNamespace(out=out, reporter=reporter, trainings=trainings, context=context)


def test_it_is_the_answer_where_it_is_better_inside_the_budget(beside: Any) -> None:
    found = json.loads((beside.out / "alternatives.json").read_text())
    lines = {line["name"]: line for line in found["lines"]}
    assert {REFERENCE, PRUNED, "beside small"} <= lines.keys()
    answer = lines[found["answer"]]
    assert answer["name"] in ("beside small", "beside small, fp32")
    assert answer["inside"]
    assert answer["share"]["value"] < 0.9
    assert answer["quality"]["value"] > 0.9 > 0.7 > lines[PRUNED]["quality"]["value"]
    assert lines[PRUNED]["difference"]["ci95"][1] < 0
    assert found["sentence"] in beside.reporter.said
    verified = json.loads((beside.out / "verify.json").read_text())
    assert verified["pruned"]["value"] == pytest.approx(answer["quality"]["value"])
    assert verified["verdict"]["met"]


def test_its_artifact_reads_its_own_tokens(beside: Any, folder: Path) -> None:
    model = prunetime.load(beside.out / "artifact")
    assert (model.manifest.config.dims.hidden, len(model.manifest.spec.layers)) == (32, 1)
    assert model.manifest.config.family == "distilbert"
    assert model.manifest.provenance["model"] == str(folder / "small")
    texts = ["a lovely sofa of red velvet", "old garden table, awful"]
    theirs = AutoModelForSequenceClassification.from_pretrained(beside.out / "artifact").eval()
    tokens = AutoTokenizer.from_pretrained(folder / "small")(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits.numpy()
    in_fp32 = Engine.of(artifact.read(beside.out / "artifact"), plan=PrecisionPlan())
    np.testing.assert_allclose(in_fp32.logits(model.tokenize(texts)), logits, rtol=1e-4, atol=1e-4)
    good, bad = model.score(texts)
    assert good > 0.5 > bad


def test_its_report_is_of_another_model(beside: Any) -> None:
    page = (beside.out / "report.html").read_text()
    assert "beside small" in page
    assert "What is left of each layer" not in page
    assert "read tokens of their own" in page
    answer = json.loads((beside.out / "answer.json").read_text())
    assert answer["dims"]["hidden"] == 32


def test_it_is_tuned_alike(beside: Any) -> None:
    """On the same rows for as many steps, with what the teacher, which reads other tokens, says of each."""
    theirs, own = (
        beside.trainings["beside-0"],
        beside.context.source.training_data(PLAN.tune_rows, tuning_seed(beside.context)),
    )
    assert theirs.teacher is None
    np.testing.assert_array_equal(theirs.data.labels, own.labels)
    assert theirs.data.tokens.ids.max() > own.tokens.ids.max()  # to which all words are unknown
    teacher = artifact.read(beside.out / "teacher")
    expected = Engine(teacher.manifest.config, teacher.weights).logits(own.tokens)
    np.testing.assert_allclose(theirs.data.teacher_logits, expected, rtol=1e-5, atol=1e-5)
    assert theirs.settings == student.tuning_settings(beside.context, len(own), beside.context.plan)


def test_a_static_embedding_that_is_better_is_named_and_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be served: the answer is the best that can."""
    count_time(monkeypatch)
    monkeypatch.setattr(libraries, "LIBRARIES", {})
    out, reporter = tmp_path / "run", Quiet()
    prune(settings_of(folder, "static"), out, reporter)
    found = json.loads((out / "alternatives.json").read_text())
    lines = {line["name"]: line for line in found["lines"]}
    static, answer = lines["beside static"], lines[found["answer"]]
    assert static["inside"]
    assert static["quality"]["value"] > 0.9 > 0.7 > answer["quality"]["value"]
    kept = out / found["better"]["beside static"]
    assert any(str(kept) in said and "prunetime cannot serve it" in said for said in reporter.said)
    assert "beside static is better" in (out / "report.html").read_text()
    assert prunetime.load(out / "artifact").manifest.config.dims.hidden == 64
    model = StaticModel.read(kept.parent)
    rows = load_source(settings_of(folder), str).roles.test
    logits = model.logits(model.tokenizer.encode(rows.texts))
    assert roc_auc_score(rows.labels, logits[:, 1] - logits[:, 0]) == pytest.approx(static["quality"]["value"])


def test_without_labels_it_learns_the_cosines_of_the_teacher(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_time(monkeypatch)
    monkeypatch.setattr(libraries, "LIBRARIES", {})
    write_tsv(Table("texts", {"text": moods(500).columns["text"]}), folder / "texts.tsv")
    given = {"model": "able", "data": "texts.tsv", "label": None, "task": "similarity"}
    out, settings = tmp_path / "run", settings_of(folder, "small", "static", **given)
    fit: Callable[..., Any] = student.fit_on_every_rank

    def killed(*given: Any, **more: Any) -> None:
        fit(*given, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(student, "fit_on_every_rank", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(settings, out, Quiet())
    prune(settings, out, Quiet())  # goes on from the last checkpoint, whose training is the same to the byte
    lines = {line["name"]: line for line in json.loads((out / "alternatives.json").read_text())["lines"]}
    untuned = load_beside(settings, load_source(settings, str), str)
    teacher = prunetime.load(out / "teacher")
    context = Context(Run(out, Quiet()), settings)
    rows = context.source.roles.test
    taught = teacher.score(rows.texts)
    for other in untuned:
        source = other.source
        engine = (
            source.static
            if isinstance(source, StaticSource)
            else Engine(source.pretrained.config, weights_of(source.pretrained.model))
        )
        agreed = spearmanr(source.test.scores(engine.logits(source.test.tokens)), taught).statistic
        tuned = lines[other.name]["quality"]["value"]
        if other.name == "beside static":  # of which nothing is tuned
            assert tuned == pytest.approx(agreed, abs=1e-6)
        else:
            assert tuned > agreed


def test_a_finished_run_is_of_its_other_models(beside: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(beside.out, out)
    assert prune(settings_of(folder, "small"), out, Quiet())["spec"] is not None
    with pytest.raises(InputError, match=r"holds another run: its beside differ"):
        prune(settings_of(folder), out, Quiet())
    more = folder / "small" / "more.json"
    more.write_text("{}")
    with pytest.raises(InputError, match=r"holds another run: its model or data files have changed"):
        prune(settings_of(folder, "small"), out, Quiet())
    more.unlink()


REFUSED = {
    "labels of another number": (
        "three",
        {},
        "its head has not the 2 outputs of the task, classification of bad, good",
    ),
    "labels of other names": ("others", {}, "its labels are no, yes .*, and those of the task bad, good"),
    "a head of another kind": ("tags", {}, "its head is that of BertForTokenClassification, and the task is classific"),
    "another problem type": ("sigmoids", {}, "problem_type of its config.json is 'multi_label_classification', and"),
    "the model itself": ("bert", {}, "it is the model itself, .*bert"),
    "a copy of it": ("copy", {}, "it is the model itself, .*bert"),
    "nothing": ("none", {}, "none' is not a folder"),
    "a head for embeddings": (
        "named",
        {"task": "similarity", "data": "pairs.tsv", "text": ("text", "other")},
        "its head",
    ),
    "too short": ("small", {"budget": Budget(share=0.9, seq_len=100), "model": "long"}, "longer than the 64 positions"),
    "labels of words": (
        "small",
        {"data": "synthetic:product-entities?rows=200", "text": None, "label": None},
        "is of single tokens",
    ),
}


@pytest.fixture(scope="module")
def others(folder: Path) -> Path:
    with_head(folder / "able", folder / "three")
    with_head(folder / "able", folder / "others", ["no", "yes"])
    with_head(folder / "able", folder / "named", ["good", "bad"])
    with_head(folder / "able", folder / "tags", ["bad", "good"], BertForTokenClassification)
    with_head(folder / "able", folder / "sigmoids", ["bad", "good"], problem_type="multi_label_classification")
    shutil.copytree(folder / "bert", folder / "copy")
    bert_folder(folder / "long", positions=128)
    table = moods(200)
    write_tsv(
        Table(
            "pairs", {"text": table.columns["text"], "other": table.columns["text"][::-1], "label": ["0", "1"] * 100}
        ),
        folder / "pairs.tsv",
    )
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_cannot_be_tuned_on_the_task_is_refused(others: Path, case: str) -> None:
    name, more, message = REFUSED[case]
    settings = settings_of(others, name, **more)
    with pytest.raises(InputError, match=rf"--beside .*{name}: .*{message}"):
        load_beside(settings, load_source(settings, str), str)


def test_a_model_is_given_once(folder: Path) -> None:
    with pytest.raises(InputError, match=r"small is given 2 times: give it once"):
        settings_of(folder, "small", "small")


def test_a_head_for_the_same_labels_is_kept(others: Path) -> None:
    """Its outputs come in the order of the labels of the data."""
    settings = settings_of(others, "named", "small")
    said: list[str] = []
    named, small = load_beside(settings, load_source(settings, str), said.append)
    assert (named.name, small.name) == ("beside named", "beside small")
    assert (named.source.pretrained.has_head, small.source.pretrained.has_head) == (True, False)
    theirs = AutoModelForSequenceClassification.from_pretrained(others / "named").eval()
    tokens = AutoTokenizer.from_pretrained(others / "named")(["red sofa"], return_tensors="pt")
    with torch.no_grad():
        good, bad = theirs(input_ids=tokens["input_ids"]).logits[0].tolist()
    engine = Engine(named.source.pretrained.config, weights_of(named.source.pretrained.model))
    logits = engine.logits(read(named.source.tokenizer, named.source.task, [("red sofa",)]).tokens)
    np.testing.assert_allclose(logits, [[bad, good]], rtol=1e-4, atol=1e-5)
    assert any("put in the order of the labels" in line for line in said)


def test_models_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "able", tmp_path / "small")
    settings = settings_of(folder, "small", str(tmp_path / "small"))
    found = load_beside(settings, load_source(settings, str), str)
    assert [other.name for other in found] == [f"beside {model}" for model in settings.beside]
