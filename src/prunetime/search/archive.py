"""The archive of a search: all evaluations, on disk line by line, so that a killed search loses nothing."""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prunetime.core.record import strict_keys
from prunetime.errors import InputError
from prunetime.search.space import Genome

FORMAT = "prunetime-evaluations-1"

ProposalKind = Literal["uniform", "depth", "evolution"]


@dataclass(frozen=True)
class Evaluation:
    """One scored genome.

    `predicted_us` is its predicted latency in microseconds, `score` its quality (higher is better), `kind` what
    proposed it, `generation` its number (0 for baselines and the initial population) and `parent` what it was made of.
    """

    genome: Genome
    predicted_us: float
    score: float
    kind: ProposalKind
    generation: int = 0
    parent: Genome | None = None

    @classmethod
    def from_json(cls, data: Any) -> Evaluation:
        values = strict_keys(cls, data)
        parent = values.get("parent")
        return cls(**{**values, "genome": tuple(values["genome"]), "parent": None if parent is None else tuple(parent)})


def elites(evaluations: Iterable[Evaluation], edges_us: Sequence[float]) -> list[Evaluation]:
    """The best evaluation of each latency bin (edges_us[i], edges_us[i + 1]]; empty bins are left out."""
    best: dict[int, Evaluation] = {}
    for evaluation in sorted(evaluations, key=preference):
        bin_index = bisect_left(edges_us, evaluation.predicted_us) - 1
        if 0 <= bin_index < len(edges_us) - 1:
            best.setdefault(bin_index, evaluation)
    return [best[index] for index in sorted(best)]


def spread(front: Sequence[Evaluation], chosen: Evaluation, count: int) -> list[Evaluation]:
    """Returns at most `count` evaluations spread evenly over `front`, fastest first; `chosen` replaces the nearest."""
    targets = np.linspace(front[0].predicted_us, front[-1].predicted_us, count)
    others = np.delete(targets, np.argmin(np.abs(targets - chosen.predicted_us)))
    taken = [chosen]
    for target in others:
        left = (e for e in front if e not in taken)
        taken += sorted(left, key=lambda e: abs(e.predicted_us - target))[:1]
    return sorted(taken, key=lambda e: e.predicted_us)


def preference(evaluation: Evaluation) -> tuple[float, float, Genome]:
    """Sort key, best first: higher score, then faster, then the smaller genome so that no tie is left to chance."""
    return (-evaluation.score, evaluation.predicted_us, evaluation.genome)


class Archive(AbstractContextManager["Archive"]):
    """Append-only file of evaluations: a header line with the digest of space, model and data, then one line each.

    Every line is on disk before `add` returns. A last line torn by a crash is dropped on opening.
    """

    def __init__(self, path: Path, digest: str) -> None:
        """Raises InputError, leaving the file as it is, where it is corrupt or belongs to another digest."""
        self._evaluations: dict[Genome, Evaluation] = {}
        # What stands after the last newline was torn by a crash.
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        if lines:
            _check_header(path, lines[0], digest)
            for number, line in enumerate(lines[1:], start=2):
                evaluation = _parse(path, number, line)
                self._evaluations[evaluation.genome] = evaluation
        self._file = path.open("ab")
        self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write({"format": FORMAT, "digest": digest})

    def add(self, evaluation: Evaluation) -> None:
        if evaluation.genome in self._evaluations:
            raise ValueError(f"genome {evaluation.genome} is in the archive already")
        self._write(asdict(evaluation))
        self._evaluations[evaluation.genome] = evaluation

    def __contains__(self, genome: Genome) -> bool:
        return genome in self._evaluations

    def __getitem__(self, genome: Genome) -> Evaluation:
        return self._evaluations[genome]

    def __len__(self) -> int:
        return len(self._evaluations)

    def __iter__(self) -> Iterator[Evaluation]:
        """In the order in which they were added."""
        return iter(self._evaluations.values())

    def close(self) -> None:
        self._file.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def within(self, us: float) -> list[Evaluation]:
        """Evaluations predicted to take at most `us` microseconds, best first."""
        return sorted((e for e in self if e.predicted_us <= us), key=preference)

    def best_within(self, us: float) -> Evaluation | None:
        return min((e for e in self if e.predicted_us <= us), key=preference, default=None)

    def front(self) -> list[Evaluation]:
        """The Pareto front, fastest first: each is better than everything as fast or faster."""
        front: list[Evaluation] = []
        for evaluation in sorted(self, key=lambda e: (e.predicted_us, -e.score, e.genome)):
            if not front or evaluation.score > front[-1].score:
                front.append(evaluation)
        return front

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _check_header(path: Path, line: bytes, digest: str) -> None:
    try:
        header = json.loads(line)
        found = (header["format"], header["digest"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: line 1 is no header of an archive of evaluations; choose another file") from None
    if found[0] != FORMAT:
        raise InputError(f"{path} is of format {found[0]!r}, this version reads {FORMAT!r}; choose another file")
    if found[1] != digest:
        raise InputError(
            f"{path} holds evaluations of another space, model or data (digest {found[1]}, expected {digest}); "
            "choose another run folder"
        )


def _parse(path: Path, number: int, line: bytes) -> Evaluation:
    try:
        return Evaluation.from_json(json.loads(line))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: line {number} is corrupt ({error}); restore the file or choose another run folder"
        ) from error
