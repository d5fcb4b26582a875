"""A run that goes on with another number of CPUs goes on, and says what that changes."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from prunetime.pipeline import student
from prunetime.pipeline.run import Run


class Said(list[str]):
    """A reporter that keeps what it is told."""

    say = list.append

    @contextmanager
    def stage(self, _: str):
        yield lambda *_: None


def test_another_number_of_cpus_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Said()
    run = Run(tmp_path, said)
    monkeypatch.setattr(student, "THREADS", 2)
    student.note_computer(run)
    student.note_computer(run)
    assert not said
    monkeypatch.setattr(student, "THREADS", 1)
    student.note_computer(run)
    (line,) = said
    assert line.startswith("this run began with CPUs 2, now 1: it goes on")
    assert "not the same to the byte" in line
    monkeypatch.setattr(student, "THREADS", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    student.note_computer(run)
    assert "processes 1, now 2" in said[1]
