"""The run folder: what each stage leaves, and which stages need not be done again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from prunetime.artifact import write_json
from prunetime.errors import InputError

Progress = Callable[[int, int], None]

FULL_DISK_BYTES = 2**20
"""A write that failed with less space left than this failed for want of space."""


class Reporter(Protocol):
    """Where a run says what it does."""

    def stage(self, title: str) -> AbstractContextManager[Progress]:
        """A stage of the run; inside, the callable takes (done, of)."""
        ...

    def say(self, message: str) -> None:
        """One line about what was found or decided."""
        ...


class Run:
    """A folder of stages. A stage that is done is recorded with a digest of what went into it."""

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.folder = folder
        self.reporter = reporter

    def path(self, name: str) -> Path:
        return self.folder / name

    def read(self, name: str) -> Any:
        """The JSON that a stage left; raises InputError where it is not there or not JSON."""
        path = self.path(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}; is {self.folder} a finished run?") from error

    def write(self, name: str, data: Any) -> None:
        write_json(self.path(name), data)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from working in this folder; raises InputError where one does."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.path(".lock").open("w")
        except OSError as error:
            raise InputError(f"cannot write the run folder {self.folder}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"another process is working in {self.folder}; wait for it or use --out") from None
            yield

    def do(self, name: str, title: str, inputs: Any, outputs: list[str], work: Callable[[Progress], None]) -> None:
        """Does stage `name` unless it was done with equal `inputs` (JSON) and its `outputs` are still there.

        A folder among the outputs that an older stage left is removed first.
        """
        digest = digest_of(inputs)
        done = self.path(f"stages/{name}.json")
        if done.is_file() and json.loads(done.read_text())["inputs"] == digest and self._all_there(outputs):
            self.reporter.say(f"{title}: done before")
            return
        self.forget(name)
        for output in outputs:
            if self.path(output).is_dir():
                shutil.rmtree(self.path(output))
        with self.reporter.stage(title) as progress, self._naming_a_full_disk():
            work(progress)
        write_json(done, {"inputs": digest, "outputs": outputs})

    def forget(self, name: str) -> None:
        """Has stage `name` done again the next time."""
        self.path(f"stages/{name}.json").unlink(missing_ok=True)

    @contextmanager
    def _naming_a_full_disk(self) -> Iterator[None]:
        """Turns what torch, safetensors and the system raise when the disk is full into an InputError that says so."""
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            free = shutil.disk_usage(self.folder).free
            if free < FULL_DISK_BYTES:
                raise InputError(
                    f"the disk of {self.folder} is full ({free} bytes free): free some space and run the same command "
                    "again to resume"
                ) from error
            raise

    def _all_there(self, outputs: list[str]) -> bool:
        return all(self.path(output).exists() for output in outputs)


def digest_of(data: Any) -> str:
    """sha256 of `data` as canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, allow_nan=False).encode()).hexdigest()


def digest_of_files(paths: list[Path]) -> str:
    """sha256 over the names and contents of `paths`."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
