"""A run in a narrow precision, or in what is measured to be the fastest."""

from dataclasses import replace
from pathlib import Path

import pytest
from forked import run
from tiny import last_object, prune_command

import prunetime
from prunetime.core import artifact
from prunetime.core.precision import PrecisionPlan


@pytest.mark.parametrize("precision", ["int8", "auto"])
def test_a_narrow_precision_is_frozen_in_the_artifact_with_what_it_loses(
    inputs: Path, tmp_path: Path, precision: str
) -> None:
    more = ("--precision", precision, "--max-loss", "0.05", "--latency", "95%")
    ran = run(prune_command(inputs, tmp_path / "run", *more))
    assert ran.returncode == 0, ran.stderr
    found = artifact.read(last_object(ran.stdout)["artifact"]).manifest.plan
    if precision == "int8":  # whatever it loses
        assert found == replace(PrecisionPlan.uniform("int8"), quality_loss=found.quality_loss)
        assert found.quality_loss is not None
    else:
        assert found.quality_loss is None or found.quality_loss <= 0.05
    loaded = prunetime.load(last_object(ran.stdout)["artifact"])
    assert loaded.engine.plan == found
