"""Experiments: whose traffic goes to which model, what is computed beside it, and what came of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from prunetime.errors import InputError
from prunetime.serve.errors import RefusedError
from prunetime.serve.outcomes import Outcome, Outcomes
from prunetime.serve.sequential import Advice, Counts, advice, difference

KEY, ARM = "x-experiment-key", "x-prunetime-arm"


class Arm(Struct, forbid_unknown_fields=True):
    """`share` of the keys get their answers from `model`."""

    name: str
    model: str
    share: float


class Experiment(Struct, forbid_unknown_fields=True):
    """Requests `on` a model that have a key are split among `arms`, the first of which is the control.

    `shadow` models are computed beside the one that answers, after it. A key stays in its arm as long as `salt` (the
    name, if not given), and the order and shares of arms stay. Differences below `margin` do not matter; intervals hold
    with probability 1 - `alpha`.
    """

    name: str
    on: str
    arms: list[Arm]
    shadow: list[str] = []
    salt: str = ""
    margin: float = 0.0
    alpha: float = 0.05

    def arm_of(self, key: str) -> Arm:
        """The arm of a key: by its hash, evenly in the shares."""
        digest = blake2b(f"{self.salt or self.name}\0{key}".encode(), digest_size=8).digest()
        point = int.from_bytes(digest, "big") / 2.0**64
        edges = accumulate(arm.share for arm in self.arms)
        return next((arm for arm, edge in zip(self.arms, edges, strict=True) if point < edge), self.arms[-1])

    def check(self, models: Sequence[str]) -> None:
        """Raises InputError where it makes no sense."""
        names = [arm.name for arm in self.arms]
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(f"experiment {self.name}: it needs two arms or more, of different names; it has {names}")
        total = sum(arm.share for arm in self.arms)
        if not math.isclose(total, 1.0, abs_tol=1e-6) or min(arm.share for arm in self.arms) <= 0.0:
            raise InputError(f"experiment {self.name}: shares must be above 0 and add up to 1; they are {total:g}")
        if not 0.0 < self.alpha < 1.0 or self.margin < 0.0:
            raise InputError(f"experiment {self.name}: alpha is {self.alpha:g} (0 to 1), margin {self.margin:g}")
        for model in (self.on, *(arm.model for arm in self.arms), *self.shadow):
            if model not in models:
                raise InputError(f"experiment {self.name}: no model {model!r} is served; there is {', '.join(models)}")


class _File(Struct, forbid_unknown_fields=True):
    experiment: list[Experiment]


def read_experiments(path: Path) -> list[Experiment]:
    """Of a TOML file with an `[[experiment]]` for each; raises InputError where it is none."""
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=_File).experiment
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two experiments have the same name: {', '.join(names)}")
    return found


class PostedOutcome(Struct):
    """`id`, of the outcome, makes it count once however often it is posted."""

    key: str
    id: str
    defect: bool


class OutcomesRequest(Struct):
    outcomes: list[PostedOutcome]


class Accepted(Struct):
    accepted: int


class ArmReport(Struct):
    name: str
    model: str
    outcomes: int
    defects: int
    rate: float | None


class Comparison(Struct):
    """Of an arm with the control: the difference of rates, and the interval that holds at all times."""

    arm: str
    difference: float | None
    interval: tuple[float, float]
    advice: Advice


class ExperimentReport(Struct):
    name: str
    arms: list[ArmReport]
    comparisons: list[Comparison]


def report_of(experiment: Experiment, totals: Mapping[str, Counts]) -> ExperimentReport:
    """What can be said after these outcomes, at any time."""
    counts = [totals.get(arm.name, Counts()) for arm in experiment.arms]
    arms = [
        ArmReport(arm.name, arm.model, each.outcomes, each.defects, each.rate)
        for arm, each in zip(experiment.arms, counts, strict=True)
    ]
    control, *others = counts
    comparisons = []
    for arm, each in zip(experiment.arms[1:], others, strict=True):
        # Of several arms, each interval is wider, so that all of them hold at once.
        interval = difference(control, each, experiment.alpha / len(others))
        first, second = control.rate, each.rate
        found = None if first is None or second is None else second - first
        comparisons.append(Comparison(arm.name, found, interval, advice(interval, experiment.margin)))
    return ExperimentReport(experiment.name, arms, comparisons)


@dataclass(frozen=True)
class Experiments:
    """Those of a server, with the outcomes of all."""

    known: Mapping[str, Experiment]
    outcomes: Outcomes | None

    def on(self, model: str | None, key: str | None) -> tuple[Experiment, Arm] | None:
        """The experiment that a request with this key is part of, and its arm."""
        if key is None:
            return None
        found = next((each for each in self.known.values() if each.on == model), None)
        return (found, found.arm_of(key)) if found else None

    def get(self, name: str) -> Experiment:
        if name not in self.known:
            raise RefusedError("not_found", f"there is no experiment {name[:80]!r}")
        return self.known[name]

    async def add(self, name: str, posted: Sequence[PostedOutcome]) -> int:
        """Returns once they are on the disk."""
        experiment = self.get(name)
        found = [Outcome(name, each.id, experiment.arm_of(each.key).name, each.defect) for each in posted]
        await self._wait(self._kept.add(found))
        return len(found)

    async def report(self, name: str) -> ExperimentReport:
        experiment = self.get(name)
        totals: Any = await self._wait(self._kept.totals(name))
        return report_of(experiment, totals)

    @property
    def _kept(self) -> Outcomes:
        assert self.outcomes is not None
        return self.outcomes

    @staticmethod
    async def _wait(asked: Any) -> Any:
        try:
            return await asyncio.wrap_future(asked)
        except Exception as error:
            raise RefusedError("internal", f"outcomes cannot be kept now: {error}") from error
