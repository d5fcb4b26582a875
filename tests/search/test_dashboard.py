"""optuna-dashboard shows a study of our sampler: a real server, its API and its page."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import optuna
import pytest
from browser import dom_of
from studies import mixed, opened, ours


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, optuna.Study]]:
    """(URL of its storage, a study of which the sampler proposed the last four trials)."""
    url = f"sqlite:///{tmp_path_factory.mktemp('study')}/study.db"
    with opened(url) as storage:
        study = optuna.create_study(study_name="ads", storage=storage, sampler=ours())
        study.optimize(mixed, n_trials=14)
        yield url, study


@pytest.fixture(scope="module")
def dashboard(study: tuple[str, optuna.Study]) -> Iterator[str]:
    """URL of its server."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    program = str(Path(sys.executable).with_name("optuna-dashboard"))
    server = subprocess.Popen([sys.executable, program, study[0], "--port", str(port)], stderr=subprocess.DEVNULL)
    while server.poll() is None:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


def get(url: str) -> dict:
    with urlopen(url) as answer:
        return json.load(answer)


def test_the_api_lists_the_study_and_its_trials(study: tuple[str, optuna.Study], dashboard: str) -> None:
    (listed,) = get(f"{dashboard}/api/studies")["study_summaries"]
    assert (listed["study_name"], listed["directions"]) == ("ads", ["minimize"])
    trials = get(f"{dashboard}/api/studies/{listed['study_id']}")["trials"]
    for shown, trial in zip(trials, study[1].trials, strict=True):
        assert (shown["number"], shown["state"], shown["values"]) == (trial.number, "Complete", trial.values)
        params = {param["name"]: param["param_external_value"] for param in shown["params"]}
        assert params == {name: str(value) for name, value in trial.params.items()}


@pytest.mark.system
def test_a_browser_shows_the_trials(study: tuple[str, optuna.Study], dashboard: str, tmp_path: Path) -> None:
    page = dom_of(f"{dashboard}/dashboard/studies/1/trials", tmp_path)
    for trial in study[1].trials:
        assert f"Trial {trial.number}" in page
    assert str(study[1].trials[0].value) in page
