import dataclasses
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trainings import SETTINGS, SUB_NETWORKS, dense, digest, dropping, half, made

import prunetime
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import InputError
from prunetime.models.encoder import SequenceClassifier, weights_of
from prunetime.training.checkpoints import discard_checkpoints, training_digest
from prunetime.training.settings import FakeQuantisation
from prunetime.training.trainer import fit


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[SequenceClassifier, Path]:
    """An uninterrupted run of `SETTINGS`, and its folder with the checkpoints."""
    model, folder = dense(), tmp_path_factory.mktemp("finished")
    fit(model, made(), SETTINGS, folder)
    return model, folder


@pytest.mark.parametrize("stopped_at", [1, 4, 5, 6, 13, 24])
def test_interrupted_at_any_step_it_ends_in_the_same_bytes(tmp_path, finished, stopped_at):
    def interrupt(done: int, _: int) -> None:
        if done == stopped_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(dense(), made(), SETTINGS, tmp_path / "stopped", on_progress=interrupt)
    torch.manual_seed(1234)
    resumed, steps = dense(), []
    fit(resumed, made(), SETTINGS, tmp_path / "stopped", on_progress=lambda done, of: steps.append((done, of)))
    assert steps[0] == ((stopped_at - 1) // 5 * 5 + 1, 24)
    assert digest(resumed) == digest(finished[0])


@pytest.mark.parametrize("change", [{"threads": 2}, {"precision": "bf16"}])
def test_interrupted_it_goes_on_with_other_threads_or_another_precision(tmp_path, finished, change):
    """What is trained is the same: weights differ by roundings."""

    def interrupt(done: int, _: int) -> None:
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(dense(), made(), dataclasses.replace(SETTINGS, **change), tmp_path, on_progress=interrupt)
    resumed, steps = dense(), []
    fit(resumed, made(), SETTINGS, tmp_path, on_progress=lambda done, of: steps.append((done, of)))
    assert steps[0] == (11, 24)
    for name, array in weights_of(finished[0]).items():
        np.testing.assert_allclose(weights_of(resumed)[name], array, atol=2e-2, err_msg=name)


def distilled(folder: Path, on_progress=None) -> SequenceClassifier:
    """A run with everything in it: what the killed processes and this one do alike."""
    student = half()
    settings = dataclasses.replace(SETTINGS, precision="bf16", seed=7)
    fit(student, made(), settings, folder, dense(), on_progress)
    return student


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
import test_checkpoints

def watch(event, arguments):
    if event == {event!r} and str(arguments[0]).endswith({ending!r}):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
test_checkpoints.distilled(Path({folder!r}))
"""


def run_until_killed(folder: Path, event: str, ending: str) -> None:
    here = Path(__file__).parent
    path = [str(here), str(here.parent), str(Path(prunetime.__file__).parents[1])]
    code = KILLED.format(path=path, folder=str(folder), event=event, ending=ending)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout == done.stderr == ""


def test_killed_again_and_again_it_ends_in_the_same_bytes(tmp_path):
    """kill -9 while a checkpoint is being written, and while an old one is being removed."""
    whole = distilled(tmp_path / "whole")
    folder = tmp_path / "killed"
    run_until_killed(folder, event="open", ending="checkpoint-10/trainer_state.json")
    run_until_killed(folder, event="shutil.rmtree", ending="checkpoint-5")
    steps: list[tuple[int, ...]] = []
    resumed = distilled(folder, lambda *done: steps.append(done))
    assert steps[0] == (16, 24)
    assert digest(resumed) == digest(whole)


def test_finished_but_not_saved_it_is_done_at_once(tmp_path, finished):
    shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)
    again, steps = dense(), []
    fit(again, made(), SETTINGS, tmp_path, on_progress=lambda *done: steps.append(done))
    assert digest(again) == digest(finished[0])
    assert len(steps) <= SETTINGS.checkpoint_steps
    discard_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["data", "settings", "model", "teacher", "tokens"])
def test_checkpoints_of_other_inputs_are_refused(tmp_path, finished, change):
    shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)
    data = made(seed=int(change == "data"))
    settings = dataclasses.replace(SETTINGS, seed=int(change == "settings"))
    teacher = dense() if change == "teacher" else None
    student = {"model": half, "tokens": dropping}.get(change, dense)()
    with pytest.raises(InputError, match="other data, settings or weights"):
        fit(student, data, settings, tmp_path, teacher)


def test_at_most_two_checkpoints_are_kept(finished):
    assert len(list((finished[1] / "checkpoints").glob("checkpoint-*"))) == 2


def test_elastic_training_interrupted_ends_in_the_same_bytes(tmp_path):
    whole = dense()
    fit(whole, made(), SETTINGS, tmp_path / "whole", sub_networks=SUB_NETWORKS)

    def interrupt(done: int, _: int) -> None:
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(dense(), made(), SETTINGS, tmp_path / "stopped", None, interrupt, sub_networks=SUB_NETWORKS)
    resumed = dense()
    fit(resumed, made(), SETTINGS, tmp_path / "stopped", sub_networks=SUB_NETWORKS)
    assert digest(resumed) == digest(whole)


QUANTISED = dataclasses.replace(SETTINGS, fake_quantisation=FakeQuantisation(PrecisionPlan.uniform("int8"), 0.5))


@pytest.mark.parametrize("stopped_at", [6, 13])
def test_fake_quantised_training_interrupted_before_or_after_it_begins_ends_in_the_same_bytes(tmp_path, stopped_at):
    whole = half()
    fit(whole, made(), QUANTISED, tmp_path / "whole", dense())

    def interrupt(done: int, _: int) -> None:
        if done == stopped_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(half(), made(), QUANTISED, tmp_path / "stopped", dense(), interrupt)
    resumed = half()
    fit(resumed, made(), QUANTISED, tmp_path / "stopped", dense())
    assert digest(resumed) == digest(whole)


def test_a_training_without_fake_quantisation_has_the_digest_of_before_there_was_any():
    values = {each.name: getattr(SETTINGS, each.name) for each in dataclasses.fields(SETTINGS)}
    del values["fake_quantisation"]
    before: Any = dataclasses.make_dataclass("Settings", values)(**values)
    digests = [training_digest(dense(), made(), each, half(), "") for each in (SETTINGS, before, QUANTISED)]
    assert digests[0] == digests[1] != digests[2]


def test_checkpoints_of_other_sub_networks_are_refused(tmp_path):
    fit(dense(), made(), SETTINGS, tmp_path, sub_networks=SUB_NETWORKS)
    with pytest.raises(InputError, match="other data, settings or weights"):
        fit(dense(), made(), SETTINGS, tmp_path, sub_networks=dataclasses.replace(SUB_NETWORKS, smallest=0.5))
