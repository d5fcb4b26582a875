"""The tests notice: each fault, planted, makes the tests fail that are there for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import FAULTS
from waiting import PATIENCE

ROOT = Path(__file__).parent.parent
TESTS_FAILED = 1
"""pytest's exit code when tests ran and some failed."""


@pytest.mark.full
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    # A search for what a fault has made impossible never ends.
    options = ["-x", f"--timeout={PATIENCE:.0f}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-p", "faults", *options, FAULTS[name][1]]
    environment = {**os.environ, "PLANTED_FAULT": name, "PYTHONPATH": str(ROOT / "tests")}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == TESTS_FAILED, ran.stdout + ran.stderr
    sound = subprocess.run(command, cwd=ROOT, env={**environment, "PLANTED_FAULT": ""}, capture_output=True, text=True)
    assert sound.returncode == 0, sound.stdout + sound.stderr
