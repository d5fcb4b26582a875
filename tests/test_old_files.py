"""Files that an earlier commit has written are still read, and mean the same.

Each folder of `tests/old` has the name of the commit that wrote it: an artifact (pruned heads and FFN rows, blocks,
dropped tokens, two precisions, prompts) with the scores of its model, a latency profile with its predictions, and a
finished run of `prune` with the model and data it was made from.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import QUICK, last_object

from prunetime import load
from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.latency import profiling

OLD = sorted((Path(__file__).parent / "old").iterdir())

WITHIN_INT8 = 5e-3
"""Tables of kernels round int8 products' scales apart from each other."""


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.mark.parametrize("folder", OLD, ids=lambda folder: folder.name)
def test_an_old_artifact_scores_as_it_did(folder: Path) -> None:
    told = read(folder / "scores.json")
    model = load(folder / "artifact")
    np.testing.assert_allclose(model.score(told["pairs"]), told["scores"], atol=WITHIN_INT8)


@pytest.mark.parametrize("folder", OLD, ids=lambda folder: folder.name)
def test_an_old_profile_predicts_as_it_did(folder: Path) -> None:
    profile, budget = profiling.parse(folder / "profile.json"), Budget(share=0.5, seq_len=24)
    dense = ArchSpec.full(profile.key.dims)
    half = dense.with_layer(0, heads=2, ffn=128).with_layer(1, tokens=0.5)
    predicted = {name: profile.predict(spec, budget) for name, spec in (("dense", dense), ("half", half))}
    assert predicted == pytest.approx(read(folder / "predicted.json"))


COMMAND = """prune --model bert --data ads.tsv --text query,title --label label --group query --latency 80% --tokens
--seq-len 16 --effort quick --out run --json"""

UNTIL_ELASTIC = ("plan", "profile", "teacher", "importance", "elastic")


THEIR_PLAN = "EFFORTS['quick'] = dataclasses.replace(EFFORTS['quick'], elastic_rows=1_000)"
PRUNETIME = [sys.executable, "-c", "; ".join([*QUICK, THEIR_PLAN, "from prunetime.cli import main", "main()"])]


def pruned_again(pruning: Path) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run([*PRUNETIME, *COMMAND.split()], cwd=pruning, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran


@pytest.mark.parametrize("folder", OLD, ids=lambda folder: folder.name)
def test_an_old_run_is_finished_and_one_that_was_killed_goes_on(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder / "pruning", tmp_path / "pruning") / "run"
    result = read(run / "result.json")
    assert last_object(pruned_again(run.parent).stdout) == result
    for name in ("result.json", "search.json", "chosen.json", "verify.json", "evaluations.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "artifact")
    for stage in (run / "stages").glob("*.json"):
        if stage.stem not in UNTIL_ELASTIC:
            stage.unlink()
    ran = pruned_again(run.parent)
    assert last_object(ran.stdout).keys() == result.keys()
    for title in ("Fine-tune the dense teacher", "Importance of heads and rows", "Train all sub-networks at once"):
        assert f"{title}: done before" in ran.stderr
    assert "Search for the best" in ran.stderr
    assert (run / "report.html").exists()
