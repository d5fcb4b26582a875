"""Learned masks on the whole road: into the budget, resumed after a kill, loadable, and no archive to pick from."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from forked import kill_soon_after, run
from tiny import last_object, prune_command
from transformers import AutoModelForSequenceClassification

import prunetime.models.hf  # noqa: F401 (registers the model)
from prunetime.core import artifact
from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.errors import InputError
from prunetime.export.onnx import export_onnx
from prunetime.inference.model import load
from prunetime.latency.predictor import LatencyProfile
from prunetime.pipeline.progress import ConsoleReporter
from prunetime.pipeline.prune import pick
from prunetime.pipeline.run import SUB_RUNS, WRITTEN
from prunetime.pipeline.trust import trust
from prunetime.report.render import render
from prunetime.tasks.synthetic import ad_relevance

REPORTER = ConsoleReporter()


def command(inputs: Path, out: Path, *more: str) -> list[str]:
    words = [word for word in prune_command(inputs, out, *more) if word != "--tokens"]
    return [*words, "--method", "multilevel"]


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("runs") / "learned"
    ran = run(command(inputs, out))
    assert ran.returncode == 0, ran.stderr
    return out, last_object(ran.stdout)


def test_what_is_learned_is_inside_the_budget_and_near_its_target(finished: tuple[Path, dict]) -> None:
    out, result = finished
    spec = ArchSpec.from_json(result["spec"])
    assert all(layer.blocks for layer in spec.layers)
    profile = LatencyProfile.from_json(json.loads((out / "profile.json").read_text()))
    assert profile.blocks is not None
    chosen = json.loads((out / "chosen.json").read_text())["predicted_us"]
    assert result["pruned"]["p50_us"] < result["dense"]["p50_us"]
    assert chosen <= result["budget_us"]


def test_the_artifact_is_no_larger_than_its_blocks_and_scores_alike_everywhere(
    finished: tuple[Path, dict], tmp_path: Path
) -> None:
    folder = finished[0] / "artifact"
    model, kept = load(folder), artifact.read(folder)
    spec, dims = kept.manifest.spec, kept.manifest.config.dims
    indices = sum(block.kept for layer in spec.layers for block in layer.blocks)
    matrices = sum(a.nbytes for n, a in kept.weights.items() if n.startswith("layers.") and a.ndim > 1)
    assert matrices <= 4 * spec.weights(dims)
    assert sum(a.nbytes for n, a in kept.weights.items() if n.endswith("block_index")) == 4 * indices
    pairs = list(zip(*(ad_relevance(50, 1).columns[name] for name in ("query", "title")), strict=True))
    tokens = model.tokenize(pairs)
    expected = model.engine.logits(tokens)
    padded = dict(zip(("input_ids", "attention_mask", "token_type_ids"), tokens.padded(0), strict=True))
    inputs = {name: array.astype(np.int64) for name, array in padded.items()}
    twin = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        of_transformers = twin(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits.numpy()
    np.testing.assert_allclose(of_transformers, expected, atol=2e-5)
    export_onnx(kept.manifest.config, kept.weights, tmp_path / "model.onnx", spec=spec)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (of_onnx,) = session.run(None, {each.name: inputs[each.name] for each in session.get_inputs()})
    np.testing.assert_allclose(of_onnx, expected, atol=2e-5)


def test_a_run_killed_while_learning_ends_as_an_uninterrupted_one(
    inputs: Path, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    whole, out = finished[0], tmp_path / "killed"
    words = command(inputs, out, "--profile", str(whole / "profile.json"))
    kill_soon_after(out / "stages/learn-rows.json", words, 0.5)
    ran = run(words)
    assert ran.returncode == 0, ran.stderr
    for name in ("rows.json", "mask.json", "artifact/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize(
    "again", [lambda run, out: pick(run, Budget.parse("30%"), out, REPORTER), lambda run, _: trust(run, REPORTER)]
)
def test_there_is_no_archive(
    finished: tuple[Path, dict], tmp_path: Path, again: Callable[[Path, Path], object]
) -> None:
    with pytest.raises(InputError, match="leaves no archive of others: run `prunetime prune` with the other budget"):
        again(finished[0], tmp_path / "other")


def test_auto_keeps_the_best_of_all_ways(inputs: Path, finished: tuple[Path, dict], tmp_path: Path) -> None:
    words = command(inputs, tmp_path / "both", "--profile", str(finished[0] / "profile.json"))
    ran = run([*words[:-1], "auto"])
    assert ran.returncode == 0, ran.stderr
    result, out = last_object(ran.stdout), tmp_path / "both"
    assert result["method"] == max(result["valid"], key=result["valid"].__getitem__)
    kept = out / result["method"] / "artifact/model.safetensors"
    assert Path(result["artifact"], "model.safetensors").read_bytes() == kept.read_bytes()
    assert Path(result["report"]).read_bytes() == (out / result["method"] / "report.html").read_bytes()
    assert set(result["valid"]) == {"search", "multilevel", "joined"}
    searched, joined = (json.loads((out / "joined" / name).read_text()) for name in ("rows.json", "mask.json"))
    assert [layer["heads"] for layer in searched] == [layer["heads"] for layer in joined]
    assert "Fine-tune the dense teacher: done before" in ran.stderr
    assert {path.name for path in out.iterdir()} <= {*WRITTEN, *SUB_RUNS, ".lock"}
    assert {path.name for name in SUB_RUNS for path in (out / name).iterdir()} <= {*WRITTEN, ".lock"}
    (out / "report.html").unlink()
    assert render(out) == out / "report.html"
    assert (out / "report.html").read_bytes() == (out / result["method"] / "report.html").read_bytes()
    (out / "result.json").unlink()  # as a kill leaves it just before
    assert last_object(run([*words[:-1], "auto"]).stdout) == result
    with pytest.raises(InputError, match=r"holds several runs, of --method auto: take .*search"):
        pick(out, Budget.parse("30%"), tmp_path / "other", REPORTER)


@pytest.mark.parametrize("method", ["group-lasso", "polarisation", "identity-priors"])
def test_other_pruners_take_the_same_road(inputs: Path, method: str, tmp_path: Path) -> None:
    """Whole sub-layers of two layers are too coarse for every budget; 90 % leaves them room."""
    words = [*command(inputs, tmp_path / method, "--latency", "90%")[:-1], method]
    if method != "group-lasso":
        at = words.index("--blocks")
        del words[at : at + 2]
    ran = run(words)
    assert ran.returncode == 0, ran.stderr
    spec = ArchSpec.from_json(last_object(ran.stdout)["spec"])
    blocks = [bool(layer.blocks) for layer in spec.layers]
    assert all(blocks) if method == "group-lasso" else not any(blocks)
    if method == "identity-priors":
        assert not all(layer.has_attention and layer.has_ffn for layer in spec.layers)
    assert f"--method {method}" in (tmp_path / method / "report.html").read_text()


def test_the_report_says_that_masks_were_learned(finished: tuple[Path, dict]) -> None:
    page = (finished[0] / "report.html").read_text()
    assert "Learned masks" in page
    assert "MLPruning, arXiv 2105.14636" in page
    for level in ("rows", "learned"):
        drawn = json.loads((finished[0] / f"{level}-ratios.json").read_text())
        assert f"How much of {drawn['of']} was kept" in page
        assert f"{drawn['masks'][0]} {drawn['ratios'][-1][0]:.0%}" in page
    assert "--method multilevel" in page
    assert "Pareto front" not in page
