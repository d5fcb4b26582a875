"""`python -c` in processes that have imported everything when they begin: to import the command line takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["prunetime.cli", "prunetime.pipeline.prune", "prunetime.pipeline.trust", "prunetime.training.trainer"]
)

Ran = subprocess.CompletedProcess[str]
SAID = ("stdout", "stderr")


class Command:
    """As `subprocess.Popen`, of `python -c CODE ARGUMENTS`; its process leads a group of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command, self._said = list(command), tempfile.TemporaryDirectory()
        assert self._command[1] == "-c"
        self._process = FORKS.Process(target=_run, args=(*self._command[2:3], self._command[3:], self._said.name))
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def finish(self) -> Ran:
        """What came of it, once it has ended."""
        self._process.join()
        assert self._process.exitcode is not None
        stdout, stderr = (Path(self._said.name, name).read_text(encoding="utf-8") for name in SAID)
        self._said.cleanup()
        return Ran(self._command, self._process.exitcode, stdout, stderr)


def kill_soon_after(file: Path, command: Sequence[str], seconds: float) -> None:
    """Runs the command and kills it with all its children so many seconds after it has left `file`."""
    process = Command(command)
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.finish()


def run(command: Sequence[str]) -> Ran:
    return Command(command).finish()


def _run(code: str, arguments: list[str], folder: str) -> None:
    os.setsid()
    for descriptor, name in enumerate(SAID, start=1):
        os.dup2(os.open(Path(folder, name), os.O_CREAT | os.O_WRONLY | os.O_APPEND), descriptor)
    # Who runs the tests in the background of a shell has Ctrl-C ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *arguments]
    exec(code, {"__name__": "__main__"})
