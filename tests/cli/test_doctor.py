"""`prunetime doctor` on this machine, alone and beside others."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from prunetime.inference.engine import Engine, supported_isas

BUSY = "while True: pass"


def doctor(*words: str, **environment: str) -> str:
    command = [sys.executable, "-m", "prunetime", "doctor", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment).stdout


def test_it_says_what_the_engine_takes() -> None:
    found = json.loads(doctor("--json"))
    assert found["isas"] == supported_isas()
    assert found["machine"]["cores"] >= 1
    assert found["reference_us"] > 10.0
    assert found["unsteady"] >= 1.0
    assert found["trusted"] is (found["doubts"] == [])
    assert json.loads(doctor("--json", PRUNETIME_ISA="portable"))["isa"] == "portable"


def test_the_isa_is_the_one_of_an_engine() -> None:
    import numpy as np
    from cases import random_config, random_weights

    from prunetime.core.arch import ArchSpec

    rng = np.random.default_rng(0)
    config = random_config(rng)
    engine = Engine(config, random_weights(config, ArchSpec.full(config.dims), rng))
    assert json.loads(doctor("--json"))["isa"] == engine.isa


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_beside_others_timings_are_not_to_be_trusted(words: tuple[str, ...]) -> None:
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in os.sched_getaffinity(0)]
    try:
        said = doctor(*words)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert "other processes have" in said
    assert ("not to be trusted" if not words else '"trusted": false') in said
