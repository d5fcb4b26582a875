"""The command line on a real artifact, and what it answers to bad input: one line, exit code 2, nothing written."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import counted_time
import numpy as np
import pytest
from cases import random_spec
from click.testing import CliRunner, Result
from tiny import bert_folder, write_tsv

import prunetime
from prunetime.cli import main
from prunetime.cli.runs import emit_result
from prunetime.core import artifact
from prunetime.core.arch import ArchSpec, KeptBlocks
from prunetime.core.artifact import Manifest
from prunetime.core.precision import MatrixPlan, PrecisionPlan
from prunetime.core.task import Task
from prunetime.latency.synthetic import random_weights
from prunetime.models import families
from prunetime.models.hf import config_json
from prunetime.tasks.synthetic import ad_relevance


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT, data, and an artifact of uneven structure."""
    folder = tmp_path_factory.mktemp("inputs")
    bert_folder(folder / "bert")
    write_tsv(ad_relevance(400, 0), folder / "ads.tsv")
    pretrained = families.load(str(folder / "bert"), outputs=2)
    config, spec = pretrained.config, random_spec(pretrained.config, np.random.default_rng(5))
    task = Task("classification", ("0", "1"), ("query", "title"), 24)
    files = {
        "tokenizer.json": (folder / "bert" / "tokenizer.json").read_bytes(),
        "config.json": config_json(config, spec, task),
    }
    artifact.write(
        folder / "model", Manifest(config, spec, PrecisionPlan(), task, {}), random_weights(config, spec), files
    )
    return folder


def run(*arguments: object, stdin: str = "") -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)


def answer(*arguments: object, stdin: str = "") -> dict:
    ran = run(*arguments, "--json", stdin=stdin)
    assert ran.exit_code == 0, ran.stderr
    return json.loads(ran.stdout.strip().splitlines()[-1])


def test_scores_of_the_command_are_those_of_the_library(inputs: Path) -> None:
    pairs = [("red sofa", "couch in red velvet"), ("drill", "cordless drill 18 v")]
    expected = prunetime.load(inputs / "model").score(pairs).tolist()
    lines = "".join(f"{query}\t{title}\n" for query, title in pairs)
    assert answer("score", inputs / "model", stdin=lines)["scores"] == expected
    assert answer("score", inputs / "model", "--text", pairs[1][0], "--pair", pairs[1][1])["scores"] == expected[1:]


def test_the_best_classes_are_printed_by_name(inputs: Path) -> None:
    pair = ("score", inputs / "model", "--text", "red sofa", "--pair", "couch in red velvet")
    (good,), names = answer(*pair)["scores"], prunetime.load(inputs / "model").manifest.task.labels
    expected = sorted(zip((1 - good, good), names, strict=True), reverse=True)
    assert answer(*pair, "--top", 2)["scores"] == [
        [{"label": name, "score": pytest.approx(score)} for score, name in expected]
    ]
    score, name = expected[0]
    assert run(*pair, "--top", 1).stdout == f"{name} {score:.4f}\n"
    for more, message in ((("--top", 3), "this model has 2; ask for 1"), (("--top", 1, "--n-best", 1), "give one")):
        ran = run(*pair, *more)
        assert (ran.exit_code, message in ran.stderr) == (2, True), ran.stderr


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_a_line_of_standard_input_ends_with_a_line_feed_and_nothing_else(
    inputs: Path, end: str, mark: str, last: bool
) -> None:
    pairs = [("red\u2028sofa", "couch\x85in red\x0cvelvet"), ("drill\u2029", "18\x1cv\x0bdrill\ra")]
    expected = prunetime.load(inputs / "model").score(pairs).tolist()
    lines = mark + end.join("\t".join(pair) for pair in pairs) + end * last
    assert answer("score", inputs / "model", stdin=lines)["scores"] == expected


def test_eval_reads_the_lines_of_a_file_as_they_end(inputs: Path, tmp_path: Path) -> None:
    """With carriage returns, a byte order mark and an empty last line, and without."""
    table = (inputs / "ads.tsv").read_text(encoding="utf-8")
    (tmp_path / "windows.tsv").write_bytes(("\ufeff" + table.replace("\n", "\r\n") + "\r\n").encode())
    one, other = (
        answer("eval", inputs / "model", "--data", data, "--label", "label", "--metric", "auc")
        for data in (inputs / "ads.tsv", tmp_path / "windows.tsv")
    )
    assert (one["value"], one["rows"]) == (other["value"], other["rows"])


def test_eval_reports_quality_and_latency_of_the_engine(inputs: Path) -> None:
    result = answer("eval", inputs / "model", "--data", inputs / "ads.tsv", "--label", "label", "--metric", "auc")
    assert result["metric"] == "auc"
    assert result["rows"] == 400
    assert result["ci95"][0] <= result["value"] <= result["ci95"][1]
    assert result["p50_us"] > 0


def test_inspect_shows_the_structure(inputs: Path) -> None:
    manifest = artifact.read(inputs / "model").manifest
    shown = answer("inspect", inputs / "model")
    assert shown["spec"] == manifest.spec.to_json()
    assert shown["encoder_weights"] == manifest.spec.weights(manifest.config.dims)
    assert "heads" in run("inspect", inputs / "model").stdout


KINDS = {
    "classes": (
        Task("classification", tuple(f"intent number {i}" for i in range(50)), ("text",), 24),
        "classification: one of 50 classes, from text; at most 24 tokens",
    ),
    "relevance": (
        Task("relevance", (), ("query", "title"), 24),
        "relevance: a relevance from 0 to 1, from query and title",
    ),
    "regression": (Task("regression", (), ("text",), 24), "regression: a number, from text; at most 24 tokens"),
    "questions": (
        Task("question-answering", (), ("question", "context"), 24, doc_stride=8),
        "question-answering: a part of context, from question and context; at most 24 tokens in windows that share 8",
    ),
    "words": (
        Task("token-classification", ("O", "B-BRAND", "I-BRAND"), ("words",), 24),
        "token-classification: of every word one of 3 labels, from words; at most 24 tokens",
    ),
    "similarity": (
        Task("similarity", (), ("one", "other"), 24),
        "similarity: a cosine, of embeddings of 64 numbers, from one and other; at most 24 tokens",
    ),
}


@pytest.mark.parametrize(("task", "said"), KINDS.values(), ids=KINDS)
def test_inspect_of_every_kind_reads_well(task: Task, said: str, inputs: Path, tmp_path: Path) -> None:
    made = artifact.read(inputs / "model")
    before = made.manifest.config
    config = replace(before, outputs=task.outputs or before.dims.hidden, rows=task.rows)
    config = replace(config, pooling="mean") if task.kind == "similarity" else config
    spec = ArchSpec.full(config.dims)
    plan = replace(
        PrecisionPlan.uniform("int8"), exceptions=((0, "ffn_input", MatrixPlan("bf16")),), quality_loss=0.00123
    )
    manifest = Manifest(config, spec, plan, task, {})
    artifact.write(tmp_path / "model", manifest, random_weights(config, spec), {"tokenizer.json": made.tokenizer})
    lines = run("inspect", tmp_path / "model").stdout.splitlines()
    assert lines[0].startswith(said)
    assert max(map(len, lines)) <= 120
    assert "None" not in "".join(lines)
    assert all(name in " ".join(" ".join(lines).split()) for name in task.labels)
    assert "precision int8, 1 matrix bf16; it loses 0.0012 of the metric on valid rows" in lines


@pytest.mark.parametrize(
    ("text", "said"), [(("query", "title"), "--text '...' --pair '...'"), (("text",), "--text '...'")]
)
def test_the_end_of_a_run_says_how_to_score(
    text: tuple[str, ...], said: str, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = artifact.read(inputs / "model")
    manifest = replace(made.manifest, task=replace(made.manifest.task, text=text))
    folder = artifact.write(tmp_path / "made", manifest, made.weights, {"tokenizer.json": made.tokenizer})
    measured = {"p50_us": 1.0, "p99_us": 1.0, "metric": "auc", "value": 0.9, "ci95": (0.8, 1.0), "params": 10}
    ends = {"dense": measured, "pruned": measured, "budget_us": 2.0, "artifact": str(folder), "report": "report.html"}
    emit_result(ends, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == f"score it  prunetime score {folder} {said}"


def test_inspect_shows_blocks_and_tokens(inputs: Path, tmp_path: Path) -> None:
    found = artifact.read(inputs / "model")
    config, blocks = found.manifest.config, (KeptBlocks("key", 32, 32, 3),)
    spec = ArchSpec.full(config.dims).with_layer(1, blocks=blocks, tokens=0.4)
    manifest = replace(found.manifest, spec=spec)
    artifact.write(tmp_path / "model", manifest, random_weights(config, spec), {"tokenizer.json": found.tokenizer})
    lines = run("inspect", tmp_path / "model").stdout.splitlines()
    assert re.search(r"100%  all$", lines[-2])
    assert re.search(r"40%  key 3 of 4 32x32$", lines[-1])
    refused = run("export", tmp_path / "model", "--to", "onnx", "--out", tmp_path / "model.onnx")
    assert refused.exit_code == 2
    assert "layer 1 keeps 0.4 of its tokens, and the ONNX graph drops none" in refused.stderr


def test_an_exported_model_gives_the_same_scores(inputs: Path, tmp_path: Path) -> None:
    import onnxruntime

    answer("export", inputs / "model", "--to", "onnx", "--out", tmp_path / "model.onnx")
    model = prunetime.load(inputs / "model")
    tokens = model.tokenize([("red sofa", "couch"), ("drill", "cordless drill with two batteries")])
    ids, mask, types = (array.astype(np.int64) for array in tokens.padded(0))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    np.testing.assert_allclose(session.run(None, feed)[0], model.engine.logits(tokens), atol=1e-4)


def test_profile_reports_its_error(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted_time.install(monkeypatch.setattr)
    out = tmp_path / "profile.json"
    covered = ("--precision", "int8", "--blocks", "32x32", "--tokens", "--profile-calls", "5", "--retry-seconds", "0")
    result = answer("profile", "--model", inputs / "bert", "--seq-len", "24", "--specs", "5", *covered, "--out", out)
    assert result["dense_us"] > result["floor_us"] > 0
    assert result["noisy"] in (True, False)
    assert set(result["error"]) == {"specs", "mape", "median", "worst", "spearman", "within_5"}
    profile = json.loads(out.read_text())
    assert (profile["key"]["tokens"], profile["key"]["precision"]) == (24, "int8")
    assert (profile["blocks"]["rows"], profile["tokens"]["counts"][-1]) == (32, 24)
    assert profile["noisy"] == result["noisy"]


def test_bench_times_every_precision_and_checks_baselines(inputs: Path) -> None:
    quick = ("--seq-len", "16", "--retry-seconds", "0", "--idle-us", "1000")
    rows = answer("bench", inputs / "model", *quick, "--against", "pytorch,onnxruntime")["rows"]
    engines = [(row["engine"], row["precision"]) for row in rows]
    assert [precision for engine, precision in engines if engine == "prunetime"] == ["fp32", "bf16", "int8"]
    assert {("pytorch", "bf16"), ("onnxruntime", "int8")} <= set(engines)
    assert all(row["p50_us"] > 0 and row["idle_p50_us"] > 0 for row in rows)
    assert all(row["max_logit_error"] < 1e-3 for row in rows if row["precision"] == "fp32")
    shown = run("bench", inputs / "bert", *quick, "--precision", "fp32").stdout.splitlines()
    assert len(shown) == 2
    assert shown[1].split()[1:3] == ["prunetime", "fp32"]


def test_bench_shows_the_roofline(inputs: Path) -> None:
    model = answer("bench", inputs / "model", "--seq-len", "16", "--roofline")["models"][0]
    assert (model["model"], model["batch"], model["seq_len"]) == (str(inputs / "model"), 1, 16)
    assert list(model["tables"]) == ["fp32", "bf16", "int8"]
    for table in model["tables"].values():
        assert table["rows"][0]["name"] == "embedding"
        assert all(row["us"] > 0 and row["ratio_with_vector"] > 0 for row in (*table["rows"], table["total"]))
    shown = run("bench", inputs / "model", "--seq-len", "16", "--roofline", "--precision", "bf16")
    assert shown.exit_code == 0, shown.stderr
    assert shown.stdout.count("every token") == 1
    for more in (("--against", "pytorch"), ("--threads", "2")):
        ran = run("bench", inputs / "model", "--roofline", *more)
        assert ran.exit_code == 2
        assert "--roofline is of one precision of our engine on one thread" in ran.stderr


def tsv(*rows: str) -> str:
    return "query\ttitle\tlabel\n" + "".join(f"{row}\n" for row in rows)


GOOD = [f"red sofa {i}\tcouch {i}\t{i % 2}" for i in range(60)]
BAD_DATA = {
    "no such file": (None, "missing.tsv"),
    "not UTF-8": (tsv(*GOOD).encode() + b"caf\xe9\tx\t1\n", "UTF-8"),
    "missing column": (tsv(*GOOD).replace("title", "name", 1).encode(), "query, name, label"),
    "empty text": (tsv(*GOOD, "red sofa\t \t1").encode(), "row 61"),
    "one class": (tsv(*(row[:-1] + "1" for row in GOOD)).encode(), "one class only"),
    "NaN label": (tsv(*GOOD, "red sofa\tcouch\tnan").encode(), "NaN label in row 61"),
    "ragged": (tsv(*GOOD, "red sofa\tcouch").encode(), "line 62"),
    "empty": (b"", "empty"),
}


def prune(inputs: Path, data: Path, out: Path, *more: object) -> Result:
    return run("prune", "--model", inputs / "bert", "--data", data, "--text", "query,title", "--label", "label",
               "--latency", "50%", "--seq-len", "24", "--effort", "quick", "--out", out, *more)  # fmt: skip


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_is_named(inputs: Path, tmp_path: Path, name: str) -> None:
    content, message = BAD_DATA[name]
    data = tmp_path / "missing.tsv"
    if content is not None:
        data.write_bytes(content)
    ran = prune(inputs, data, tmp_path / "out", "--json")
    assert ran.exit_code == 2, ran.stderr
    assert message in ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["exit_code"] == 2
    assert not (tmp_path / "out" / "run.json").exists()
    assert "Traceback" not in ran.stderr


BAD_OPTIONS = {
    "label of another set": (("--test", "other.tsv"), "label 'maybe'"),
    "too long": (("--seq-len", "65"), "--seq-len 65 is longer than the 64 positions"),
    "no model": (("--model", "nowhere/at-all"), "nowhere/at-all"),
    "no budget": (("--latency", "soon"), "'soon' is no budget"),
    "no metric": (("--metric", "beauty"), "beauty"),
    "no head": (("--teacher-ready",), "leave --teacher-ready out"),
    "no slice": (("--slice", "unseen:colour"), "colour"),
    "no profile": (("--profile", "nothing.json"), "nothing.json"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_bad_options_are_named(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    options, message = BAD_OPTIONS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "other.tsv").write_text(tsv(*GOOD, "red sofa\tcouch\tmaybe"))
    ran = prune(inputs, inputs / "ads.tsv", tmp_path / "out", *options)
    assert ran.exit_code == 2, ran.stderr
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out" / "teacher").exists()


def test_a_folder_that_is_no_model_and_an_unsupported_one_are_refused(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ran = prune(inputs, inputs / "ads.tsv", tmp_path / "out", "--model", tmp_path / "empty")
    assert (ran.exit_code, "config.json" in ran.stderr) == (2, True)
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "gpt2"}')
    ran = prune(inputs, inputs / "ads.tsv", tmp_path / "out", "--model", tmp_path / "empty")
    assert (ran.exit_code, "'gpt2' is not supported: supported are bert" in ran.stderr) == (2, True)


def test_texts_that_cannot_be_scored_are_refused(inputs: Path) -> None:
    for arguments, message in (
        (("--text", "alone"), "text 0 has 1 part; this model scores 2: query, title"),
        (("--text", "a", "--pair", " "), "text 0 is empty"),
        (("--pair", "b"), "--pair 'b' is the second text of a pair: give the first with --text"),
        ((), "nothing on standard input"),
    ):
        ran = run("score", inputs / "model", *arguments)
        assert (ran.exit_code, message in ran.stderr) == (2, True), ran.stderr


def test_a_folder_that_is_no_artifact_is_refused_by_every_command(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for command in (("score", "--text", "a", "--pair", "b"), ("inspect",), ("bench",)):
        ran = run(command[0], tmp_path / "model", *command[1:])
        assert (ran.exit_code, "is no artifact" in ran.stderr) == (2, True), ran.stderr


def test_a_full_disk_is_an_error_that_says_so(inputs: Path) -> None:
    ran = run("export", inputs / "model", "--to", "onnx", "--out", "/dev/full/model.onnx")
    assert (ran.exit_code, "Traceback" in ran.stderr) == (2, False), ran.stderr


def test_the_command_runs_as_a_module_and_names_every_command() -> None:
    command = [sys.executable, "-m", "prunetime", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("prune", "pick", "demo", "profile", "eval", "score", "inspect", "report", "bench", "export"):
        assert name in shown
