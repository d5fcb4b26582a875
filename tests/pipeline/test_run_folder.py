"""No command deletes or replaces what it did not make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from served import make_artifact
from tiny import FEW_ROWS, bert_folder, write_tsv

from prunetime.cli import main
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.errors import InputError
from prunetime.pipeline.auto import METHODS
from prunetime.pipeline.context import Context
from prunetime.pipeline.progress import ConsoleReporter
from prunetime.pipeline.prune import begin, pick
from prunetime.pipeline.run import WRITTEN, Run
from prunetime.pipeline.stages import STAGES
from prunetime.settings import Settings
from prunetime.tasks.synthetic import ad_relevance

REPORTER = ConsoleReporter()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("inputs")
    data = write_tsv(ad_relevance(800, 0), folder / "ads.tsv")
    model = bert_folder(folder / "bert")
    text = ("query", "title")
    budget = Budget(share=0.5, seq_len=24)
    return Settings(str(model), str(data), budget, text=text, label="label", effort=RunPlan(**FEW_ROWS))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made_run(folder: Path, settings: Settings) -> Path:
    """The folder of a run that has begun, with a stage's output, and with a file and a folder that are not its own."""
    run = Run(folder, REPORTER)
    with run.locked():
        begin(Context(run, settings))
        run.do("plan", "Plan", [], ["teacher"], lambda _: (folder / "teacher").mkdir())
    (folder / "teacher" / "model").write_text("a stage's")
    (folder / "notes").mkdir()
    (folder / "notes" / "mine.txt").write_text("mine")
    (folder / "log.txt").write_text("mine")
    return folder


def of_prune(settings: Settings, out: Path, *more: str) -> Result:
    words = [
        "--model",
        settings.model,
        "--data",
        settings.data,
        "--latency",
        "60%",
        "--seq-len",
        "24",
        "--out",
        str(out),
    ]
    return CliRunner().invoke(main, ["prune", *words, "--text", "query,title", "--label", "label", *more])


@pytest.mark.parametrize("name", ["teacher", "artifact", "work", "report.html"])
def test_a_run_does_not_begin_among_files_it_would_replace(name: str, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / name if "." not in name else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / "report.html").write_text("mine")
    before = contents(tmp_path)
    for more in ((), ("--overwrite",)):
        ran = of_prune(settings, tmp_path, *more)
        assert ran.exit_code == 2
        assert f"is no run folder, and a run would replace {name} in it" in ran.stderr
        assert contents(tmp_path) == before


def test_other_files_may_be_in_the_folder_of_a_run(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("mine")
    with Run(tmp_path, REPORTER).locked():
        begin(Context(Run(tmp_path, REPORTER), settings))
    assert (tmp_path / "log.txt").read_text() == "mine"


def test_overwriting_a_run_removes_what_it_made_and_nothing_else(settings: Settings, tmp_path: Path) -> None:
    out = made_run(tmp_path / "run", settings)
    other = replace(settings, seed=1)
    with pytest.raises(InputError, match=r"holds another run: its seed differ; choose another --out, or --overwrite"):
        begin(Context(Run(out, REPORTER), other))
    assert (out / "teacher").exists()
    begin(Context(Run(out, REPORTER), other), overwrite=True)
    assert json.loads((out / "run.json").read_text())["settings"]["seed"] == 1
    assert {path for path in contents(out) if not path.startswith(".")} == {"run.json", "log.txt", "notes/mine.txt"}


def test_a_run_is_not_removed_for_one_that_cannot_begin(settings: Settings, tmp_path: Path) -> None:
    out = made_run(tmp_path / "run", settings)
    before = contents(out)
    ran = of_prune(replace(settings, data="nothing.tsv"), out, "--overwrite")
    assert (ran.exit_code, "nothing.tsv" in ran.stderr) == (2, True)
    assert contents(out) == before


def test_the_runs_of_auto_go_with_it_and_a_folder_of_that_name_does_not(settings: Settings, tmp_path: Path) -> None:
    out = made_run(tmp_path / "run", settings)
    made_run(out / "search", settings)
    (out / "search" / "log.txt").unlink()
    (out / "joined" / "teacher").mkdir(parents=True)
    (out / "joined" / "teacher" / "mine").write_text("mine")
    Run(out, REPORTER).clear()
    assert set(contents(out)) == {
        *(".lock", "log.txt", "notes/mine.txt"),
        *("search/notes/mine.txt", "joined/teacher/mine"),
    }
    assert not any(name in WRITTEN for name in METHODS)


def test_the_demo_goes_on_or_refuses_and_deletes_nothing(settings: Settings, tmp_path: Path) -> None:
    out = made_run(tmp_path / "run", settings)
    before = contents(out)
    ran = CliRunner().invoke(main, ["demo", "--out", str(out)])
    assert ran.exit_code == 2
    assert "holds another run" in ran.stderr
    assert contents(out) == before


def test_a_run_is_not_picked_into_itself(settings: Settings, tmp_path: Path) -> None:
    out = made_run(tmp_path / "run", settings)
    for name in ("plan.json", "profile.json", "evaluations.jsonl", "elastic"):
        (out / name).touch()
    before = contents(out)
    with pytest.raises(InputError, match="is the run to pick from: choose another --out"):
        pick(out, Budget.parse("30%"), out / ".." / "run", REPORTER, overwrite=True)
    assert contents(out) == before


def exported(model: Path, form: str, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["export", str(model), "--to", form, "--out", str(out), *more])


@pytest.mark.parametrize(
    ("form", "name"), [("onnx", "model.onnx"), ("openvino", "model.xml"), ("openvino", "model.bin")]
)
def test_a_file_is_written_over_only_where_that_is_said(form: str, name: str, tmp_path: Path) -> None:
    model = make_artifact(tmp_path / "artifact")
    there, out = tmp_path / name, tmp_path / name.replace(".bin", ".xml")
    there.write_text("mine")
    ran = exported(model, form, out)
    assert ran.exit_code == 2
    assert f"{there} exists: choose another --out, or --overwrite" in ran.stderr
    assert there.read_text() == "mine"
    assert exported(model, form, out, "--overwrite").exit_code == 0
    assert there.read_bytes() != b"mine"


def test_a_profile_is_refused_its_file_before_anything_is_measured(settings: Settings, tmp_path: Path) -> None:
    there = tmp_path / "profile.json"
    there.write_text("mine")
    for out, message in ((there, "exists: choose another"), (tmp_path, "is a folder"), (there / "x", "cannot write")):
        ran = CliRunner().invoke(main, ["profile", "--model", settings.model, "--out", str(out)])
        assert ran.exit_code == 2
        assert message in ran.stderr
        assert "Measure" not in ran.stderr
    assert there.read_text() == "mine"


def test_every_output_of_a_stage_is_removed_with_its_run() -> None:
    for stage in STAGES:
        assert {output.partition("/")[0] for output in stage.outputs} <= WRITTEN, stage.name
        assert stage.summary.endswith("."), stage.name
