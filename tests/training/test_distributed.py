"""Two processes under torchrun train what one does: the same batches, losses and weights."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]

Trained = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Where one process, this one, and two ranks left what they trained."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in (1, 2)}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        from distributed_run import main
    main(folders[1])
    environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    command = [*TORCHRUN, "2", str(HERE / "distributed_run.py"), str(folders[2])]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return folders


def found(trained: dict[int, Path], name: str) -> tuple[Trained, Trained, Trained]:
    """What one process left, and each of two."""
    files = (trained[1] / f"{name}_0.npz", trained[2] / f"{name}_0.npz", trained[2] / f"{name}_1.npz")
    one, first, second = (dict(np.load(file)) for file in files)
    return one, first, second


@pytest.mark.parametrize("name", ["alone", "distilled", "elastic", "masked", "ordered"])
def test_two_ranks_have_the_loss_curve_and_the_weights_of_one(trained: dict[int, Path], name: str) -> None:
    one, first, second = found(trained, name)
    assert len(one["losses"]) == 16
    np.testing.assert_allclose((first.pop("losses") + second.pop("losses")) / 2, one.pop("losses"), rtol=1e-4)
    for array in one:
        np.testing.assert_allclose(first[array], one[array], atol=2e-5, err_msg=array)
        np.testing.assert_array_equal(first[array], second[array], err_msg=array)


def test_two_ranks_resume_to_the_same_bytes(trained: dict[int, Path]) -> None:
    for whole, resumed in zip(found(trained, "elastic"), found(trained, "resumed"), strict=True):
        np.testing.assert_array_equal(whole.pop("losses")[10:], resumed.pop("losses"))
        for array in whole:
            np.testing.assert_array_equal(whole[array], resumed[array], err_msg=array)


def test_ranks_that_follow_train_what_the_first_one_does(trained: dict[int, Path]) -> None:
    _, alone, _ = found(trained, "alone")
    led = np.load(trained[2] / "led_0.npz")
    for array in led:
        np.testing.assert_array_equal(led[array], alone[array], err_msg=array)


def test_ranks_that_follow_stop_when_the_first_one_does(trained: dict[int, Path]) -> None:
    one, first = (np.load(trained[ranks] / "stopped-early_0.npz") for ranks in (1, 2))
    for array in one:
        np.testing.assert_allclose(first[array], one[array], atol=2e-5, err_msg=array)
