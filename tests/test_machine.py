"""What this process may use is what its machine has, or less where its control group says so."""

import os

import psutil
import pytest

from prunetime.core import machine

MEMORY, CORES = "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"


@pytest.fixture
def group_says(monkeypatch):
    """Has a file of the control group be this text; None: there is no such file."""

    def say(file, text):
        def read_text(path, *_):
            if str(path) != file or text is None:
                raise OSError(path)
            return f"{text}\n"

        monkeypatch.setattr(machine.Path, "read_text", read_text)

    return say


@pytest.mark.parametrize(("limit", "expected"), [("1048576", 1048576), ("max", None), (str(2**60), None), (None, None)])
def test_memory_is_that_of_the_machine_or_of_the_group(limit, expected, group_says):
    group_says(MEMORY, limit)
    physical = psutil.virtual_memory().total
    assert machine.memory_bytes() == (expected or pytest.approx(physical, rel=0.01))


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("50000 100000", 0.5), ("150000 100000", 1.5), ("max 100000", 4.0), ("900000 100000", 4.0), (None, 4.0)],
)
def test_cores_are_those_of_the_process_or_of_the_group(quota, expected, group_says, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    group_says(CORES, quota)
    assert machine.usable_cores() == expected
