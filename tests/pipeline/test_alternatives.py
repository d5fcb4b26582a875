"""What one would take instead of the pruned model: faster precisions alone, and models that need no search."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from quiet import TIMING, Quiet, count_time
from tiny import FEW_ROWS, distilbert_folder

import prunetime
from prunetime.core import artifact
from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.artifact import copy_folder
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.pipeline.context import Context
from prunetime.pipeline.prune import pick, prune
from prunetime.pipeline.run import Run
from prunetime.pipeline.stages.alternatives import (
    PRUNED,
    REFERENCE,
    Line,
    _answer,
    _better_files,
    discard_alternatives,
    kept_files,
    sentence,
)
from prunetime.pipeline.stages.libraries import files_of_libraries, quantise_with_libraries
from prunetime.pipeline.stages.structures import most_even
from prunetime.pipeline.stages.tune import inside_budget
from prunetime.pipeline.student import engine_of
from prunetime.settings import Settings
from prunetime.tasks.data import Examples
from prunetime.tasks.metrics import metric
from prunetime.tasks.synthetic import ad_relevance

SHORT = {"teacher_rows": 320, "teacher_epochs": 2, "tune_rows": 160, "evaluations": 30}
PLAN = RunPlan(**FEW_ROWS | SHORT | {"score_rows": 100, "importance_rows": 64, "looks": 2, "compares": True})


def settings_of(inputs: Path, share: float, **more: Any) -> Settings:
    given = {"text": ("query", "title"), "label": "label", "group": "query", "effort": PLAN, "timing": TIMING}
    budget = Budget(share=share, seq_len=24)
    return Settings(str(inputs / "bert"), str(inputs / "ads.tsv"), budget, **given | more)


LIBRARY_LINES = {"ONNX Runtime int8", "OpenVINO int8"}


@pytest.fixture(scope="module")
def compared(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quiet]:
    out, reporter = tmp_path_factory.mktemp("runs") / "compared", Quiet()
    small = distilbert_folder(inputs / "small", ad_relevance(200, 0).columns["title"])
    with pytest.MonkeyPatch.context() as patch:
        count_time(patch)
        prune(settings_of(inputs, 0.2, beside=(str(small),)), out, reporter)
    return out, reporter


def test_the_uniform_structure_keeps_heads_and_neurons_alike() -> None:
    dims = Dims(layers=6, hidden=384, heads=12, head_dim=32, ffn=1536, vocabulary=30522, positions=512)
    kept = [(0, 704), (1, 600), (3, 416), (4, 384), (5, 320), (7, 0)]  # inside one budget
    assert most_even([ArchSpec.of(dims, [heads] * 6, [ffn] * 6) for heads, ffn in kept], dims).layers[0].heads == 4
    found = most_even([ArchSpec.of(dims, [heads] * 6, [ffn] * 6) for heads, ffn in kept[:1]], dims)
    assert found.layers[0].ffn == 704


def test_each_alternative_is_timed_and_read_beside_the_answer(compared: tuple[Path, Quiet]) -> None:
    out, reporter = compared
    found = json.loads((out / "alternatives.json").read_text())
    lines = {line["name"]: line for line in found["lines"]}
    assert {
        REFERENCE,
        PRUNED,
        "dense, bf16",
        "dense, int8",
        "dense, tuned as long",
        "uniform",
        "beside small",
    } <= lines.keys()
    assert lines.keys() >= LIBRARY_LINES
    assert lines[REFERENCE]["share"]["value"] == pytest.approx(1.0)
    assert lines["dense, int8"]["share"]["value"] < lines["dense, bf16"]["share"]["value"] < 1.0
    assert not lines["dense, int8"]["inside"]
    for line in lines.values():
        assert line["inside"] == (line["share"]["ci95"][1] <= 0.2), line["name"]
        low, high = line["difference"]["ci95"]
        assert low <= line["difference"]["value"] <= high
    assert lines[found["answer"]]["inside"]
    assert lines[found["answer"]]["difference"] == {"value": 0.0, "ci95": [0.0, 0.0]}
    assert found["sentence"] in reporter.said
    ours = [line for line in lines.values() if line["name"] not in LIBRARY_LINES and "pruned, " not in line["name"]]
    best = max((line for line in ours if line["inside"]), key=lambda line: line["valid"])
    assert lines[found["answer"]]["valid"] == best["valid"] or "beyond chance" in found["why"]


def test_what_is_picked_is_compared_too(compared: tuple[Path, Quiet], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        count_time(patch)
        pick(compared[0], Budget(share=0.15), tmp_path / "picked", Quiet())
    found = json.loads((tmp_path / "picked" / "alternatives.json").read_text())
    lines = {line["name"]: line for line in found["lines"]}
    assert {REFERENCE, PRUNED, "dense, tuned as long"} <= lines.keys()
    assert lines[found["answer"]]["inside"]


def test_the_artifact_is_the_answer(compared: tuple[Path, Quiet]) -> None:
    out, _ = compared
    answer, verified = (json.loads((out / name).read_text()) for name in ("answer.json", "verify.json"))
    model = artifact.read(out / "artifact")
    assert model.manifest.spec.to_json() == verified["spec"]
    assert verified["verdict"]["met"]
    lines = {line["name"]: line for line in json.loads((out / "alternatives.json").read_text())["lines"]}
    assert verified["pruned"]["value"] == pytest.approx(lines[answer["name"]]["quality"]["value"])
    page = (out / "report.html").read_text()
    assert "What one would take instead" in page
    assert all(name in page for name in lines)
    assert not (out / "alternatives").exists()


def test_models_are_compared_on_as_many_whole_groups_as_the_plan_has_rows_for(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunetime.pipeline.context.COMPARED_GROUPS", 2)
    context = Context(Run(tmp_path, Quiet()), settings_of(inputs, 0.2, effort=replace(PLAN, compared_rows=40)))
    groups, rows = context.source.roles.test.groups, context.compared_rows
    assert 20 < len(rows) <= 40 < len(groups)
    assert not np.isin(np.delete(groups, rows), groups[rows]).any()
    everything = replace(context, settings=settings_of(inputs, 0.2))
    assert len(everything.compared_rows) == len(groups)


def test_too_few_groups_are_not_compared_on(inputs: Path, tmp_path: Path) -> None:
    context = Context(Run(tmp_path, Quiet()), settings_of(inputs, 0.2, effort=replace(PLAN, compared_rows=10)))
    assert len(context.compared_rows) == len(context.source.roles.test)


def test_libraries_are_timed_and_read_as_the_dense_model_is(compared: tuple[Path, Quiet]) -> None:
    out, _ = compared
    found = json.loads((out / "alternatives.json").read_text())
    lines = {line["name"]: line for line in found["lines"]}
    for name in LIBRARY_LINES:  # on the clock of these tests, only engines take any time
        assert 0.0 < lines[name]["latency"]["p50_us"] < 1.0
        assert lines[name]["latency"]["rounds"] == TIMING.verify_rounds
        low, high = lines[name]["quality"]["ci95"]
        assert low < lines[name]["quality"]["value"] < high
        assert lines[name]["quality"]["value"] == pytest.approx(lines[REFERENCE]["quality"]["value"], abs=0.02)
        assert lines[name]["valid"] == pytest.approx(lines[REFERENCE]["valid"], abs=0.02)
    assert found["answer"] not in LIBRARY_LINES
    assert found["not_measured"] == {}


def test_a_run_that_is_finished_is_done_at_once(compared: tuple[Path, Quiet], inputs: Path) -> None:
    again = Quiet()
    result = prune(settings_of(inputs, 0.2, beside=(str(inputs / "small"),)), compared[0], again)
    assert result == json.loads((compared[0] / "result.json").read_text())
    assert again.stages == ["Load model and data"]


ON_TEST = {"pruned": [0.1, 0.9, 0.2, 0.8, 0.6, 0.4] * 30, "uniform": [0.1, 0.9, 0.2, 0.8, 0.3, 0.7] * 30}


def context_of(**more: Any) -> Any:
    """A context with the test rows that `ON_TEST` is of, and with `more`."""
    table: Any = None
    rows = np.arange(180)
    test = Examples(table, [("",)] * 180, np.array([0, 1, 0, 1, 0, 1] * 30), rows, rows, None)
    roles = SimpleNamespace(test=test)
    source = SimpleNamespace(metric=metric("auc"), valid_metric=metric("auc"), roles=roles)
    return SimpleNamespace(source=source, compared_rows=rows, **more)


@pytest.mark.parametrize(
    ("inside", "valid", "answer"),
    [
        ({"uniform": True}, {"pruned": 0.8, "uniform": 0.9}, "uniform"),
        ({"uniform": False}, {"pruned": 0.8, "uniform": 0.9}, "pruned"),
        ({"uniform": True}, {"pruned": 0.8, "uniform": 0.7}, "uniform"),  # better on the test rows beyond chance
        ({"dense": True}, {"pruned": 0.8, "dense": 0.8}, "pruned"),  # equals
        ({"dense": True}, {"pruned": 0.8, "dense": 0.81}, "dense"),
        ({"pruned, bf16": True}, {"pruned": 0.8, "pruned, bf16": 0.81}, "pruned"),  # its precisions are chosen already
    ],
)
def test_no_line_of_the_report_beats_the_answer(inside: dict[str, bool], valid: dict[str, float], answer: str) -> None:
    context = context_of(better=lambda value: value)
    scores = {name: np.array(ON_TEST.get(name, ON_TEST["pruned"])) for name in valid}
    assert _answer(context, {"pruned": True} | inside, valid, scores)[0] == answer


def line(name: str, valid: float, *, inside: bool = True) -> dict[str, Any]:
    interval = {"value": 0.0, "ci95": [-0.01, 0.01]}
    return {"name": name, "valid": valid, "inside": inside, "share": {"value": 0.1}, "difference": interval} | {
        "quality": {"value": valid}
    }


@pytest.mark.parametrize(
    ("answer", "same", "said"),
    [
        ("pruned", {"pruned", "pruned, bf16"}, "the next best, dense, int8, has 0.8900"),
        ("dense, int8", {"dense", "dense, int8", "OpenVINO int8"}, "the next best, pruned, bf16, has 0.9100"),
        ("first layer", {"first layer"}, "the next best, pruned, bf16, has 0.9100"),
        (
            "pruned",
            {"pruned", "pruned, bf16", "dense, int8", "first layer", "OpenVINO int8"},
            "no other model is inside",
        ),
    ],
)
def test_the_next_best_has_other_weights_than_the_answer(answer: str, same: set[str], said: str) -> None:
    found = [line("dense", 0.95, inside=False), line("pruned", 0.9), line("pruned, bf16", 0.91)]
    found += [line("dense, int8", 0.89), line("OpenVINO int8", 0.885), line("first layer", 0.88)]
    assert said in sentence(found, answer, same, metric("auc"))


def test_precisions_that_are_too_slow_for_the_budget_are_not_taken(
    compared: tuple[Path, Quiet], inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp32 takes what was searched in int8 out of its budget, and not out of that of the dense model."""
    count_time(monkeypatch)
    small, slow = artifact.read(compared[0] / "artifact"), prunetime.PrecisionPlan(quality_loss=0.0)
    for share, kept in ((0.2, False), (1.0, True)):
        context = Context(Run(compared[0], reporter := Quiet()), settings_of(inputs, share))
        found = inside_budget(context, small.manifest, small.weights, slow)
        assert replace(found, quality_loss=None) == (replace(slow, quality_loss=None) if kept else context.plan)
        assert any("it is run in int8" in said for said in reporter.said) != kept
        value, exact = (context.metric_on_valid(engine_of(small, plan)) for plan in (found, slow))
        assert found.quality_loss == pytest.approx(context.better(exact - value))
        assert inside_budget(context, small.manifest, small.weights, context.plan) is context.plan


def test_precisions_and_libraries_change_no_weights(compared: tuple[Path, Quiet]) -> None:
    source: Any = None
    dense, answer = (artifact.read(compared[0] / name) for name in ("teacher", "artifact"))
    full, int8 = prunetime.PrecisionPlan(), prunetime.PrecisionPlan.uniform("int8")
    same = (
        Line(dense, full, source, None),
        Line(dense, int8, source, None),
        Line(dense, int8, source, None, Path("a/b.onnx")),
    )
    other = Line(answer, full, source, None), Line(dense, full, source, None, Path("a/static.safetensors"))
    assert len({each.weights for each in same}) == 1
    assert len({each.weights for each in (*same, *other)}) == 3


def test_a_file_that_is_better_than_the_answer_is_kept_and_said(tmp_path: Path) -> None:
    context = context_of(run=Run(tmp_path, Quiet()))
    files = {name: tmp_path / "alternatives" / name / "model.onnx" for name in ("better", "slow", "equal")}
    for file in (*files.values(), tmp_path / "alternatives" / "uniform" / "manifest.json"):
        file.parent.mkdir(parents=True)
        file.touch()
    model: Any = None
    compared = {name: Line(model, model, model, model, file) for name, file in (files | {"pruned": None}).items()}
    on_test = {"pruned": "pruned", "better": "uniform", "slow": "uniform", "equal": "pruned"}
    scores = {name: np.array(ON_TEST[of]) for name, of in on_test.items()}
    better = _better_files(context, compared, dict.fromkeys(compared, True) | {"slow": False}, scores, "pruned")
    assert better == {"better": "alternatives/better/model.onnx"}
    context.run.write("alternatives.json", {"better": better})
    assert kept_files(context.run) == {"better": files["better"]}
    discard_alternatives(context.run)
    assert [path for path in (tmp_path / "alternatives").rglob("*") if path.is_file()] == [files["better"]]
    context.run.write("alternatives.json", {})  # as it was before libraries were measured
    discard_alternatives(context.run)
    assert not (tmp_path / "alternatives").exists()


@pytest.mark.parametrize("fault", ["write_int8", "FileModel.logits"])
def test_a_library_that_fails_does_not_lose_the_run(
    compared: tuple[Path, Quiet], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no kernel for this\nat line 7")

    reporter = Quiet()
    copy_folder(compared[0] / "teacher", tmp_path / "run" / "teacher")
    context = Context(Run(tmp_path / "run", reporter), settings_of(inputs, 0.2))
    monkeypatch.setattr(f"prunetime.pipeline.stages.libraries.{fault}", fail)
    monkeypatch.setattr("prunetime.baselines.libraries.find_spec", lambda name: None if name == "nncf" else name)
    quantise_with_libraries(context)
    found = files_of_libraries(context.run)
    assert found.files == {}
    assert found.not_measured == {
        "ONNX Runtime int8": "no kernel for this",
        "OpenVINO int8": "nncf not installed",
    }
    assert "ONNX Runtime int8 is not measured: no kernel for this" in reporter.said
    again = Quiet()
    quantise_with_libraries(Context(Run(tmp_path / "run", again), context.settings))
    assert [said for said in again.said if "done before" in said]
    assert not again.stages


def test_where_a_precision_alone_is_inside_the_budget_nothing_is_pruned(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_time(monkeypatch)
    reporter = Quiet()
    result = prune(settings_of(inputs, 0.9, max_loss=0.05), tmp_path / "run", reporter)
    manifest = artifact.read(result["artifact"]).manifest
    assert manifest.plan != prunetime.PrecisionPlan()
    assert manifest.spec == artifact.read(tmp_path / "run" / "teacher").manifest.spec
    assert any("nothing has to be pruned, and nothing is compared with it" in said for said in reporter.said)
    assert not [title for title in reporter.stages if "sub-network" in title]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Budget met" in page
    assert f"In {manifest.plan.described()} the dense model is inside the budget" in page
    assert "What one would take instead" not in page
    assert not (tmp_path / "run" / "alternatives.json").exists()


def test_what_loses_too_much_is_not_the_answer(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 that is said to lose nothing at all, or else all is pruned: nothing may be lost."""
    count_time(monkeypatch)
    reporter = Quiet()
    monkeypatch.setattr(
        "prunetime.pipeline.stages.lossless.final_plan",
        lambda *_: replace(prunetime.PrecisionPlan.uniform("int8"), quality_loss=0.01),
    )
    monkeypatch.setattr("prunetime.pipeline.prune.importance", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prune(settings_of(inputs, 0.9, max_loss=0.002), tmp_path / "run", reporter)
    assert not json.loads((tmp_path / "run" / "lossless.json").read_text())["met"]
