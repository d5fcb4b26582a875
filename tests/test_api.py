"""What `import prunetime` offers, and the scripts in docs/examples that use it."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import counted_time
import numpy as np
import pytest
from served import Served, make_artifact
from tiny import QUICK, write_inputs

import prunetime
from prunetime.errors import InputError

FEW_CALLS_BY_DEFAULT = (
    "from prunetime.latency.settings import TimingSettings; "
    "TimingSettings.__init__.__defaults__ = (0.0, 4, 8, 2, *TimingSettings.__init__.__defaults__[4:])"
)
"""The example says nothing of measurements; with `counted_time` no more calls are needed than these."""

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def test_names_are_sorted_documented_and_there() -> None:
    assert prunetime.__all__ == sorted(prunetime.__all__)
    for name in prunetime.__all__:
        assert inspect.getdoc(getattr(prunetime, name)), name
    assert set(prunetime.__all__) <= {*dir(prunetime), *prunetime._ELSEWHERE}
    with pytest.raises(AttributeError, match="module 'prunetime' has no attribute 'prone'"):
        prunetime.prone  # noqa: B018 (reading it is refused)


def test_a_budget_of_milliseconds() -> None:
    assert prunetime.Budget.ms(1.9, seq_len=48) == prunetime.Budget.parse("1.9ms", seq_len=48)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="effort is 'much'; it must be one of quick, standard, thorough"):
        prunetime.Settings("model", "data", prunetime.Budget.ms(1.0), effort="much")
    before = pytest.warns(DeprecationWarning, match=r"use prune\(Settings\(model, data, budget, ...\), out\)")
    with before, pytest.raises(InputError, match="effort is 'much'; it must be one of quick, standard, thorough"):
        prunetime.prune("model", "data", prunetime.Budget.ms(1.0), tmp_path / "run", effort="much")
    with before, pytest.raises(InputError, match="data: no such file"):
        prunetime.prune("model", "data", prunetime.Budget.ms(1.0), tmp_path / "run", effort="quick", seed=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_the_example_of_pruning_runs(inputs: Path, tmp_path: Path) -> None:
    last = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    code = "; ".join([*QUICK, FEW_CALLS_BY_DEFAULT, last])
    command = [sys.executable, "-c", code, EXAMPLES / "prune.py", inputs / "bert", inputs / "ads.tsv", tmp_path / "run"]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    dense, pruned, scores = ran.stdout.splitlines()
    us = [float(re.search(r": (\d+) us, auc", line)[1]) for line in (dense, pruned)]
    assert us[1] < us[0]
    np.testing.assert_allclose(
        np.fromstring(scores.strip("[]"), sep=" "),
        prunetime.load(tmp_path / "run" / "artifact").score(
            [("red sofa", "velvet couch in red"), ("red sofa", "garden hose")]
        ),
        rtol=1e-5,
    )


def test_the_example_of_asking_a_server_runs(tmp_path: Path) -> None:
    artifact = make_artifact(tmp_path / "pairs")
    server = Served("--port", "0", str(artifact))
    try:
        command = [sys.executable, EXAMPLES / "serve_and_ask.py", f"http://127.0.0.1:{server.port}"]
        ran = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    finally:
        server.stop()
    assert ran.returncode == 0, ran.stderr
    expected = prunetime.load(artifact).rank("red sofa", ["velvet couch in red", "garden hose"])
    assert [line.split()[0] for line in ran.stdout.splitlines()] == [str(each["corpus_id"]) for each in expected]


def test_a_profile_predicts_and_is_given_on(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted_time.install(monkeypatch.setattr)
    budget = prunetime.Budget(share=1.0, seq_len=24)
    found = prunetime.profile(str(inputs / "bert"), budget)
    whole = prunetime.ArchSpec.full(found.key.dims)
    half = prunetime.ArchSpec.of(found.key.dims, [2, 2], [128, 128])
    assert found.predict(half, budget) < found.predict(whole, budget)
    assert type(found).from_json(found.to_json()) == found


def test_a_name_of_the_release_before_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"prunetime\.Plan is now prunetime\.PrecisionPlan"):
        assert prunetime.Plan is prunetime.PrecisionPlan
