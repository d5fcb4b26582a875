"""The run folder: what each stage leaves, and which stages need not be done again."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError

from prunetime.core.artifact import copy_folder, write_bytes, write_json
from prunetime.core.progress import Progress
from prunetime.errors import InputError

RECORD = "run.json"

SUB_RUNS = ("multilevel", "search", "joined")
"""The folders of the runs that `--method auto` makes in its own."""

WRITTEN = frozenset(
    (
        *(RECORD, "computer.json", "stages", "work", "tracking", "result.json", "report.html", "attempts.json"),
        *(
            "plan.json",
            "profile.json",
            "teacher",
            "baselines.json",
            "importance.safetensors",
            "elastic",
            "elastic.json",
            "repair.safetensors",
        ),
        *("evaluations.jsonl", "policy.json", "proposed.json", "search.json", "chosen.json", "mask.json"),
        *("rows", "rows.json", "rows-ratios.json", "learned", "learned-ratios.json"),
        *("run-plan.json", "dense.json", "teacher.json", "tune.json", "lossless.json"),
        *("alternatives", "alternatives.json", "answer.json"),
        *("tail.json", "gate.json", "front.json", "candidate", "verify.json", "artifact", "trust", "trust.json"),
    )
)
"""The names that runs write at the top of their folder. Nothing else in it is ever touched."""

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
    """A folder of stages. A stage that is done is recorded with a digest of what went into it.

    What the `earlier` runs, of the same model and data, made of equal inputs is taken over from them.
    """

    def __init__(self, folder: Path, reporter: Reporter, earlier: Sequence[Run] = ()) -> None:
        self.folder = folder
        self.reporter = reporter
        self.earlier = earlier

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
        """Keeps other processes from working in this folder.

        Raises InputError where one does, or where the folder holds files that no run made and this one would replace.
        """
        self.check_free()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self.path(".lock").open("a")
        except OSError as error:
            raise InputError(f"cannot write the run folder {self.folder}: {error.strerror}") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InputError(f"another process is working in {self.folder}; wait for it or use --out") from None
            yield

    @property
    def begun(self) -> bool:
        """Whether the folder is a run's."""
        return self.path(RECORD).exists() or self.path("stages").is_dir()

    def check_free(self) -> None:
        """Raises InputError where the folder is no run's and holds files that a run would replace."""
        foreign = [] if self.begun else sorted(name for name in WRITTEN if self.path(name).exists())
        if foreign:
            raise InputError(
                f"{self.folder} is no run folder, and a run would replace {', '.join(foreign)} in it: choose another "
                "--out"
            )

    def clear(self) -> None:
        """Removes what this run made; other files in its folder stay."""
        if not self.begun:
            return
        for name in WRITTEN - {RECORD}:
            _remove(self.path(name))
        for name in SUB_RUNS:
            part = Run(self.path(name), self.reporter)
            part.clear()
            part.path(".lock").unlink(missing_ok=True)
            with suppress(OSError):  # it is not there, or something else is in it
                part.folder.rmdir()
        _remove(self.path(RECORD))  # last: until then the folder is a run's, and clearing can be done again

    def do(self, name: str, title: str, inputs: Any, outputs: list[str], work: Callable[[Progress], None]) -> None:
        """Does stage `name` unless it was done with equal `inputs` (JSON), here or in an earlier run, and its `outputs`
        are still there.

        A folder among the outputs that an older stage left is removed first.
        """
        digest = digest_of(inputs)
        if self._has_done(name, digest, outputs):
            self.reporter.say(f"{title}: done before")
            return
        self.forget(name)
        for output in outputs:
            if self.path(output).is_dir():
                shutil.rmtree(self.path(output))
        for other in self.earlier:
            if other._has_done(name, digest, outputs):
                self._take_over(other, [*outputs, _record_of(name)])
                self.reporter.say(f"{title}: done before, in {other.folder.name}")
                return
        started = time.monotonic()
        with self.reporter.stage(title) as progress, self._naming_a_full_disk():
            work(progress)
        write_json(
            self.path(_record_of(name)),
            {"inputs": digest, "outputs": outputs, "title": title, "seconds": round(time.monotonic() - started, 1)},
        )

    def forget(self, name: str) -> None:
        """Has stage `name` done again the next time."""
        self.path(_record_of(name)).unlink(missing_ok=True)

    def _has_done(self, name: str, digest: str, outputs: list[str]) -> bool:
        record = self.path(_record_of(name))
        if not record.is_file() or json.loads(record.read_text())["inputs"] != digest:
            return False
        return all(self.path(output).exists() for output in outputs)

    def _take_over(self, other: Run, names: list[str]) -> None:
        """Takes files and folders over from another run; folders, which hold models, need no more of the disk."""
        for name in names:
            source = other.path(name)
            if source.is_dir():
                copy_folder(source, self.path(name), link=True)
            else:
                write_bytes(self.path(name), source.read_bytes())

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


def _record_of(stage: str) -> str:
    return f"stages/{stage}.json"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
