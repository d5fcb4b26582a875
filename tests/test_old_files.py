"""Files that an earlier commit has written are still read, and mean the same.

Each folder of `tests/old` has the name of the commit that wrote it: an artifact (pruned heads and FFN rows, blocks,
dropped tokens, two precisions, prompts) with the scores of its model, and a latency profile with its predictions.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
