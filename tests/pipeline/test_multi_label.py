"""Several labels a text, from a checkpoint or a table to what is served, exported and judged: equal to transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import sentence_folders as folders
import torch
from click.testing import CliRunner
from forked import run
from sentence_folders import PAIRS, TEXTS
from sentence_transformers import CrossEncoder
from served import Served
from sklearn.metrics import f1_score
from tiny import QUICK_PRUNETIME, bert_folder, last_object, write_tsv
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification, pipeline

import prunetime
import prunetime.models.hf  # noqa: F401 (registers the classes of artifacts)
from prunetime import Client
from prunetime.cli import main
from prunetime.core.artifact import other_files, read, write
from prunetime.core.budget import Budget
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task import Task, sigmoid
from prunetime.errors import InputError
from prunetime.inference.engine import Engine
from prunetime.models.encoder import weights_of
from prunetime.pipeline.convert import convert
from prunetime.pipeline.source import Source, load_source
from prunetime.pipeline.stages.verify import quality, scores_on_test
from prunetime.pipeline.student import manifest_of, write_artifact
from prunetime.settings import Settings
from prunetime.tasks.sources import read_table
from prunetime.tasks.synthetic import ad_relevance
from prunetime.tasks.table import Table

NAMES = ("late", "broken", "question")
MULTIPLE = "multi_label_classification"


def checkpoint(folder: Path, **changes: Any) -> Path:
    settings = {"id2label": dict(enumerate(NAMES)), "problem_type": MULTIPLE} | changes
    settings["num_labels"] = len(settings["id2label"])
    return folders.encoder_folder(folder, BertForSequenceClassification, **settings)


def prunetime_of(*arguments: object) -> str:
    ran = CliRunner().invoke(main, list(map(str, arguments)))
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def pipeline_scores(folder: Path | str, texts: list[str] = TEXTS, labels: tuple[str, ...] = NAMES) -> np.ndarray:
    """The scores of transformers' pipeline for every text, [texts, labels]."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    classifier = pipeline(
        "text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), top_k=None
    )
    by_name = [{each["label"]: each["score"] for each in row} for row in classifier(texts, truncation=True)]
    return np.array([[row[label] for label in labels] for row in by_name])


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of transformers, and the artifact of it with a threshold that some scores reach."""
    root = tmp_path_factory.mktemp("converted")
    theirs = checkpoint(root / "theirs")
    said: list[str] = []
    manifest = convert(str(theirs), root / "ours", said.append)
    assert manifest.task == Task("multi-label-classification", NAMES, ("text",), 24, activation="identity")
    assert said[-1] == "labels, in this order: late, broken, question"
    return theirs, root / "ours"


def test_a_checkpoint_scores_as_the_pipeline_of_transformers(converted: tuple[Path, Path], tmp_path: Path) -> None:
    theirs, ours = converted
    model = prunetime.load(ours)
    scores = model.score(TEXTS)
    np.testing.assert_allclose(scores, pipeline_scores(theirs), atol=1e-5)
    np.testing.assert_allclose(scores, pipeline_scores(ours), atol=1e-5)
    exported = tmp_path / "exported"
    prunetime_of("export", str(ours), "--to", "transformers", "--out", str(exported))
    config = json.loads((exported / "config.json").read_text())
    assert (config["problem_type"], config["threshold"]) == (MULTIPLE, 0.5)
    np.testing.assert_allclose(scores, pipeline_scores(exported), atol=1e-5)
    config["threshold"] = 0.25
    (exported / "config.json").write_text(json.dumps(config))
    assert convert(str(exported), tmp_path / "again", print).task.threshold == 0.25


def test_exported_graphs_give_its_logits_and_say_what_they_are(converted: tuple[Path, Path], tmp_path: Path) -> None:
    _, ours = converted
    model = prunetime.load(ours)
    ids, mask, types = (array.astype(np.int64) for array in model.tokenize(TEXTS).padded(0))
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    for form, name in (("onnx", "model.onnx"), ("openvino", "model.xml")):
        prunetime_of("export", str(ours), "--to", form, "--out", str(tmp_path / name))
    (logits,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["logits"], inputs)
    np.testing.assert_allclose(sigmoid(logits), model.score(TEXTS), atol=1e-5)
    metadata = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert Task.from_json(json.loads(metadata["task"])) == model.manifest.task
    core = openvino.Core()
    graph = core.read_model(tmp_path / "model.xml")
    assert Task.from_json(json.loads(graph.get_rt_info("task").astype(str))) == model.manifest.task
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(sigmoid(compiled(inputs)["logits"]), model.score(TEXTS), atol=1e-5)


def test_a_folder_says_whether_its_labels_are_several(tmp_path: Path) -> None:
    pair = checkpoint(tmp_path / "two", id2label={0: "a", 1: "b"})
    model_of_two = convert(str(pair), tmp_path / "ours", print, text=("query", "title"))
    assert not model_of_two.task.is_ranking
    model = prunetime.load(tmp_path / "ours")
    predicted, scores = model.predict(PAIRS), model.score(PAIRS)
    for folder in (pair, tmp_path / "ours"):  # which scores several labels by nothing, where it is not told
        np.testing.assert_allclose(predicted, CrossEncoder(str(folder)).predict(PAIRS), atol=1e-5)
        sigmoids = CrossEncoder(str(folder)).predict(PAIRS, activation_fn=torch.nn.Sigmoid())
        np.testing.assert_allclose(scores, sigmoids, atol=1e-5)
    single = checkpoint(tmp_path / "s", problem_type="single_label_classification")
    with pytest.raises(InputError, match="with 3 labels is classification, not multi-label-classification"):
        convert(str(single), tmp_path / "no", print, kind="multi-label-classification")
    unsaid = checkpoint(tmp_path / "u", problem_type=None)
    assert convert(str(unsaid), tmp_path / "c", print).task.kind == "classification"
    several = convert(str(unsaid), tmp_path / "l", print, kind="multi-label-classification")
    assert several.task.kind == "multi-label-classification"
    one = checkpoint(tmp_path / "one", id2label={0: "a"})
    with pytest.raises(InputError, match="has one output, but multi-label-classification has one for each label"):
        convert(str(one), tmp_path / "no", print, kind="multi-label-classification")


WORDS = ("for", "cotton", "steel")


def titles(rows: int) -> Table:
    """Generated titles, each with a column of 0 and 1 for every one of `WORDS`, and a list of those that it has."""
    texts = ad_relevance(rows, 0).columns["title"]
    has = [[word in text.lower().split() for word in WORDS] for text in texts]
    columns = {word: [str(int(row[number])) for row in has] for number, word in enumerate(WORDS)}
    lists = [json.dumps([word for word, there in zip(WORDS, row, strict=True) if there]) for row in has]
    one = [WORDS[row % len(WORDS)] for row in range(rows)]
    return Table("titles", {"title": texts, "lists": lists, "one": one, **columns})


def loaded(model: Path, data: Path, label: str, **settings: Any) -> Source:
    budget = Budget(share=0.5, seq_len=24)
    return load_source(
        Settings(str(model), str(data), budget, text=("title",), label=label, **settings), lambda _: None
    )


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Path, Path]:
    """A source whose teacher is ready, with an order of labels of its own and one more; its artifact; and the data."""
    root = tmp_path_factory.mktemp("ready")
    data = write_tsv(titles(300), root / "titles.tsv")
    teacher = checkpoint(root / "teacher", id2label={0: "Steel", 1: "hose", 2: "For", 3: "Cotton"})
    source = loaded(teacher, data, ",".join(WORDS), teacher_ready=True)
    model = source.pretrained.model
    write_artifact(root / "ours", source, manifest_of(source, model, PrecisionPlan(), {}), weights_of(model))
    expected = pipeline_scores(teacher, labels=("For", "Cotton", "Steel", "hose"))
    np.testing.assert_allclose(prunetime.load(root / "ours").score(TEXTS), expected, atol=1e-5)
    return source, root / "ours", data


def test_a_model_is_judged_as_sklearn_judges_at_its_own_threshold(ready: tuple[Source, Path, Path]) -> None:
    source, folder, data = ready
    assert source.task.labels == (*WORDS, "hose")
    assert source.metric.name == "f1_micro"
    assert loaded(folder, data, "lists").task.labels == tuple(sorted(WORDS))
    model = prunetime.load(folder)
    task, valid, test = model.manifest.task, source.roles.valid, source.roles.test
    assert json.loads((folder / "config.json").read_text())["threshold"] == task.threshold != 0.5
    micro = partial(f1_score, average="micro")
    thresholds = model.score(valid.texts).ravel()
    best = max(micro(valid.labels, model.score(valid.texts) >= each) for each in thresholds)
    assert micro(valid.labels, model.score(valid.texts) >= task.threshold) == pytest.approx(best)
    rough = Engine(model.manifest.config, read(folder).weights, plan=PrecisionPlan.uniform("int8"))
    engines = {"dense": model.engine, "pruned": rough}
    measured = quality(source, scores_on_test(source, engines))["all"]
    assert source.task_for(model.engine) == task
    for name, engine in engines.items():
        scores = source.test.scores(engine.logits(source.test.tokens))
        threshold = source.task_for(engine).threshold
        assert measured[name]["value"] == pytest.approx(micro(test.labels, scores >= threshold))


def test_the_commands_say_the_labels_of_texts(ready: tuple[Source, Path, Path]) -> None:
    _, folder, data = ready
    model = prunetime.load(folder)
    said = json.loads(prunetime_of("score", str(folder), "--text", TEXTS[0], "--json"))
    (labels,) = model.manifest.task.assigned(model.score(TEXTS[:1]))
    assert said["labels"] == [labels]
    np.testing.assert_allclose(said["scores"], model.score(TEXTS[:1]), atol=1e-6)
    assert prunetime_of("score", str(folder), "--text", TEXTS[0]) == json.dumps(labels) + "\n"
    assert f"each with a probability from {model.manifest.task.threshold:.4g} on" in prunetime_of(
        "inspect", str(folder)
    )
    table = read_table(str(data))
    for label, metric in ((",".join(WORDS), "f1_micro"), ("lists", "f1_macro")):
        command = ["eval", str(folder), "--data", str(data), "--label", label, "--metric", metric, "--json"]
        judged = json.loads(prunetime_of(*command))
        given = model.score(table.columns["title"]) >= model.manifest.task.threshold
        truth = np.array(
            [[word in labels for word in (*WORDS, "hose")] for labels in map(json.loads, table.columns["lists"])]
        )
        expected = f1_score(truth, given, average=metric.removeprefix("f1_"), zero_division=np.nan)
        assert judged["value"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "label", "settings", "message"),
    [
        (
            {"id2label": {0: "for", 1: "cotton"}},
            ",".join(WORDS),
            {},
            "labels of the data are not those of .* no 'steel'",
        ),
        (
            {"problem_type": "single_label_classification"},
            "lists",
            {},
            "no teacher for multi-label-classification: problem_type",
        ),
        ({}, "one", {}, "'multi_label_classification', .*; give --task multi-label-classification, or leave"),
    ],
)
def test_a_teacher_of_something_else_is_refused(
    changes: dict[str, Any], label: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = write_tsv(titles(300), tmp_path / "titles.tsv")
    teacher = checkpoint(tmp_path / "teacher", **{"id2label": dict(enumerate(WORDS))} | changes)
    with pytest.raises(InputError, match=message):
        loaded(teacher, data, label, teacher_ready=True, **settings)


def test_a_label_that_only_other_rows_have_is_said(tmp_path: Path) -> None:
    table, model = titles(300), bert_folder(tmp_path / "bert")
    first = table.columns["title"][0]
    rare = ["1" if title == first else "0" for title in table.columns["title"]]
    data = write_tsv(Table("t", table.columns | {"rare": rare}), tmp_path / "rare.tsv")
    warned = [loaded(model, data, ",".join((*WORDS, "rare")), seed=seed).roles for seed in range(12)]
    for roles in warned:
        has = {name: getattr(roles, name).labels[:, 3].any() for name in ("train", "valid", "test")}
        expected = [name for name in ("valid", "test") if has[name] and not has["train"]]
        assert [w for w in roles.warnings if "rare" in w] == [
            f"No row of train has the label 'rare', which rows of {name} have." for name in expected
        ]
    assert any(not roles.train.labels[:, 3].any() for roles in warned)


def test_servers_and_clients_give_the_scores_and_the_labels(ready: tuple[Source, Path, Path], tmp_path: Path) -> None:
    source, made, _ = ready
    labels, texts = source.task.labels, [text for (text,) in source.roles.valid.texts[:6]]
    found, scores = read(made), prunetime.load(made).score(texts)
    manifest = replace(found.manifest, task=replace(found.manifest.task, threshold=float(np.median(scores))))
    folder = write(tmp_path / "ours", manifest, found.weights, other_files(made))
    model = prunetime.load(folder)
    given = model.manifest.task.assigned(scores)
    assert 0 < sum(map(len, given)) < scores.size
    convert(str(checkpoint(tmp_path / "pair", id2label={0: "a", 1: "b"})), tmp_path / "two", print)
    server = Served("--port", "0", f"several={folder}", f"two={tmp_path / 'two'}")
    try:
        described = server.get("/v2/models/several").json
        assert described["outputs"] == [
            {"name": "score", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1]},
        ]
        assert described["parameters"]["threshold"] == model.manifest.task.threshold
        inputs = [{"name": "title", "shape": [6], "datatype": "BYTES", "data": texts}]
        score, named = server.post("/v2/models/several/infer", {"inputs": inputs}).json["outputs"]
        assert (score["shape"], named["shape"]) == ([6, 4], [6])
        np.testing.assert_array_equal(np.float32(score["data"]).reshape(6, 4), scores)
        assert [json.loads(each) for each in named["data"]] == given
        best = {"inputs": inputs, "outputs": [{"name": "score", "parameters": {"classification": 1}}]}
        (found,) = server.post("/v2/models/several/infer", best).json["outputs"]
        assert [each.split(":")[2] for each in found["data"]] == [labels[index] for index in scores.argmax(axis=1)]
        of_two = [{"name": "text", "shape": [1], "datatype": "BYTES", "data": texts[:1]}]
        (found,) = server.post("/v2/models/two/infer", best | {"inputs": of_two}).json["outputs"]
        assert float(found["data"][0].split(":")[0]) == pytest.approx(
            prunetime.load(tmp_path / "two").score(texts[:1]).max(), abs=2e-6
        )
        best["outputs"][0]["name"] = "labels"
        assert server.post("/v2/models/several/infer", best).status == 422
        expected = [
            [{"label": labels[index], "score": pytest.approx(row[index])} for index in np.argsort(-row)]
            for row in scores
        ]
        assert server.post("/predict", {"inputs": [[text] for text in texts]}).json == expected
        raw = server.post("/predict", {"inputs": texts[0], "raw_scores": True}).json
        assert [sigmoid(np.float32(each["score"])) for each in raw] == pytest.approx(np.sort(scores[0])[::-1])
        assert server.post("/", {"inputs": texts}).json == expected
        top = server.post("/", {"inputs": texts[0], "parameters": {"top_k": 1}}).json
        assert top == [expected[0][:1]]
        with Client(f"http://127.0.0.1:{server.port}/") as client:
            np.testing.assert_allclose(client.score(texts, "several"), scores, rtol=1e-6)
    finally:
        server.stop()


@pytest.mark.full
def test_a_whole_run(tmp_path: Path) -> None:
    data = write_tsv(titles(1500), tmp_path / "titles.tsv")
    bert = bert_folder(tmp_path / "bert")
    command = [
        *QUICK_PRUNETIME, "prune", "--model", str(bert), "--data", str(data), "--text", "title", "--label",
        ",".join(WORDS), "--latency", "75%", "--seq-len", "24", "--effort", "quick", "--precision", "fp32", "--json",
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    ran = run(command)
    assert ran.returncode == 0, ran.stderr
    verified = json.loads((tmp_path / "run/verify.json").read_text())["quality"]["all"]
    test = loaded(bert, data, ",".join(WORDS)).roles.test
    for name, at in (("dense", "teacher"), ("pruned", "artifact")):
        model = prunetime.load(tmp_path / "run" / at)
        scores = model.score(test.texts)
        expected = pipeline_scores(tmp_path / "run" / at, [text for (text,) in test.texts], WORDS)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
        given = scores >= model.manifest.task.threshold
        assert verified[name]["value"] == pytest.approx(f1_score(test.labels, given, average="micro"))
    assert last_object(ran.stdout)["pruned"]["metric"] == "f1_micro"
