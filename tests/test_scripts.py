"""The scripts in docs/examples run as they stand."""

import difflib
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import bert_folder
from transformers import AutoModelForSequenceClassification

import prunetime.models.hf  # noqa: F401 (registers the class)
from prunetime.core.arch import ArchSpec, Dims
from prunetime.tasks.synthetic import ad_relevance

FOLDER = Path(__file__).parents[1] / "docs/examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    bert_folder(folder / "bert")
    columns = ad_relevance(300, 0).columns
    rows = zip(columns["query"], columns["title"], columns["label"], strict=True)
    (folder / "train.tsv").write_text("a\tb\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows))
    return folder


def test_pruning_while_training_takes_under_ten_more_lines() -> None:
    scripts = [(FOLDER / f"{name}.py").read_text().splitlines() for name in ("train", "prune_while_training")]
    code = [lines[lines.index("import csv") :] for lines in scripts]
    changed = [line for line in difflib.ndiff(*code) if line.startswith(("+", "-")) and line[2:].strip()]
    assert 0 < len(changed) < 10


def test_the_page_of_trainers_shows_lines_of_the_script() -> None:
    page = (FOLDER.parent / "how-to" / "trainer.md").read_text(encoding="utf-8")
    imported, shown = page.split("```py\n")[1].split("```")[0].split("\n\n")
    script = (FOLDER / "prune_while_training.py").read_text(encoding="utf-8")
    assert f"\n{imported}\n" in script
    assert f"\n{shown}" in script


@pytest.mark.parametrize("name", ["train", "prune_while_training"])
def test_a_script_runs_as_it_stands(folder: Path, name: str) -> None:
    words = [sys.executable, str(FOLDER / f"{name}.py"), str(folder / "bert"), str(folder / "train.tsv")]
    ran = subprocess.run([*words, str(folder / name)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    model = AutoModelForSequenceClassification.from_pretrained(folder / name)
    if name == "prune_while_training":
        dims = Dims.from_json(model.config.encoder["dims"])
        kept = ArchSpec.from_json(model.config.spec).weights(dims) / ArchSpec.full(dims).weights(dims)
        assert kept <= 0.4
