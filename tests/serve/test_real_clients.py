"""The real clients that are installed here; `make test-clients` has all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CLIENTS = Path(__file__).parents[1] / "clients"


def test_clients_that_are_installed_here() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-m", "pytest", "-c", str(CLIENTS / "pytest.ini"), str(CLIENTS)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed
    assert int(passed[1]) > 20, run.stdout
