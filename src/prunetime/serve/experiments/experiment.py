"""Experiments: which model answers a key, which models shadow it, and the report of outcomes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import SupportsFloat, TypeVar

import msgspec
from msgspec import Struct

from prunetime.errors import InputError
from prunetime.serve.errors import RefusedError
from prunetime.serve.experiments.databases import StoredOutcome
from prunetime.serve.experiments.outcomes import Outcomes, UnavailableError
from prunetime.serve.experiments.sequential import Advice, KeySums, advice, difference

KEY, ARM = "x-experiment-key", "x-prunetime-arm"

BLANKS = " \t"
"""The white space that HTTP strips from header values."""

MAX_KEY_BYTES = 512
"""The longest key or id of an outcome, in bytes of UTF-8: PostgreSQL indexes at most 2,704 bytes an entry."""

ANSWER_SECONDS = 10.0
"""The most seconds that a request waits for the database of outcomes."""

T = TypeVar("T")


class Arm(Struct, forbid_unknown_fields=True):
    """An arm: a `share` of the keys is answered by `model`."""

    name: str
    model: str
    share: float


class Experiment(Struct, forbid_unknown_fields=True):
    """An experiment splits requests `on` a model, by their key, among `arms`, the first of which is the control.

    `shadow` models compute the same requests after the answer. A key stays in its arm as long as `salt` (by default the
    name) and the order and shares of the arms stay. Differences below `margin` do not matter. Intervals hold with
    probability 1 - `alpha`, and are narrowest when a difference of `detect`, if that is given, is to be found.
    """

    name: str
    on: str
    arms: list[Arm]
    shadow: list[str] = []
    salt: str = ""
    margin: float = 0.0
    alpha: float = 0.05
    detect: float | None = None

    def arm_of(self, key: str) -> Arm:
        """Assigns a key to an arm, by the hash of its UTF-8 without blanks at its ends."""
        digest = blake2b(f"{self.salt or self.name}\0{key.strip(BLANKS)}".encode(), digest_size=8).digest()
        point = int.from_bytes(digest, "big") / 2.0**64
        edges = accumulate(arm.share for arm in self.arms)
        return next((arm for arm, edge in zip(self.arms, edges, strict=True) if point < edge), self.arms[-1])

    def check(self, models: Sequence[str]) -> None:
        """Raises InputError where the experiment is inconsistent, or names a model that is not one of `models`."""
        names = [arm.name for arm in self.arms]
        for name in (self.name, *names):
            if not name.strip(BLANKS) or "/" in name:
                raise InputError(f"experiment {self.name}: {name!r} is no name: give it letters, and no /")
        if len(names) < 2 or len(set(names)) < len(names):
            raise InputError(f"experiment {self.name}: it needs two arms or more, of different names; it has {names}")
        total = sum(arm.share for arm in self.arms)
        if not math.isclose(total, 1.0, abs_tol=1e-6) or min(arm.share for arm in self.arms) <= 0.0:
            raise InputError(f"experiment {self.name}: shares must be above 0 and add up to 1; they are {total:g}")
        if not 0.0 < self.alpha < 1.0 or self.margin < 0.0:
            raise InputError(f"experiment {self.name}: alpha is {self.alpha:g} (0 to 1), margin {self.margin:g}")
        if self.detect is not None and not 0.0 < self.detect <= 1.0:
            raise InputError(
                f"experiment {self.name}: detect is {self.detect:g}: give a difference of rates above 0 and up to 1, "
                "such as 0.02, or leave it out"
            )
        for model in (self.on, *(arm.model for arm in self.arms), *self.shadow):
            if model not in models:
                raise InputError(f"experiment {self.name}: no model {model!r} is served; there is {', '.join(models)}")


class _File(Struct, forbid_unknown_fields=True):
    experiment: list[Experiment]


def read_experiments(path: Path) -> list[Experiment]:
    """Reads a TOML file with an `[[experiment]]` for each. Raises InputError where it is none."""
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=_File).experiment
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from error
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: two experiments have the same name: {', '.join(names)}")
    models = [each.on for each in found]
    if shared := next((model for model in models if models.count(model) > 1), None):
        raise InputError(
            f"{path}: two experiments are on {shared}: a request can be in one only; put one on another model"
        )
    return found


def key_of_header(value: str) -> str:
    """Decodes an experiment key from a header's value, which HTTP hands over as latin-1: its bytes are UTF-8, as in a
    JSON body, or else latin-1. Raises RefusedError where it is no key."""
    given = value.encode("latin-1")
    try:
        return checked_key(given.decode("utf-8"), KEY)
    except UnicodeDecodeError:
        return checked_key(value, KEY)


def checked_key(given: str, where: str) -> str:
    """Strips a key or an outcome's id. Raises RefusedError, naming `where` it was given, where no header could hold it
    or no database keep it."""
    key = given.strip(BLANKS)
    if not key:
        raise RefusedError("unusable", f"{where} is empty: say whose request or outcome it is, or leave it out")
    size = len(key.encode())
    if size > MAX_KEY_BYTES:
        raise RefusedError("unusable", f"{where} has {size} bytes of UTF-8, and may have {MAX_KEY_BYTES}: send a hash")
    if any(character < " " or character == "\x7f" for character in key):
        raise RefusedError("unusable", f"{where} {key[:80]!r} has a control character: leave it out")
    return key


class PostedOutcome(Struct, forbid_unknown_fields=True):
    """An outcome as it is posted. An `id` that is posted again counts once."""

    key: str
    id: str
    defect: bool


class OutcomesRequest(Struct, forbid_unknown_fields=True):
    outcomes: list[PostedOutcome]


class Accepted(Struct):
    accepted: int


class ArmReport(Struct):
    """The report of an arm: `rate` is `defects` over `outcomes`, of the `keys` that have any."""

    name: str
    model: str
    keys: int
    outcomes: int
    defects: int
    rate: float | None


class Comparison(Struct):
    """An arm beside the control: the difference of their rates, and an interval that holds at all looks at once.
    `progress` is the share, which may exceed 1, of the information that finds a difference of `detect`."""

    arm: str
    difference: float | None
    interval: tuple[float, float]
    advice: Advice
    progress: float | None


class ExperimentReport(Struct):
    name: str
    arms: list[ArmReport]
    comparisons: list[Comparison]


def report_of(experiment: Experiment, sums: Mapping[str, KeySums]) -> ExperimentReport:
    """Makes the report of an experiment, at any time, from the sums over the keys of each arm."""
    of_arms = [sums.get(arm.name, KeySums.none()) for arm in experiment.arms]
    arms = [
        ArmReport(arm.name, arm.model, int(each.keys), int(each.outcomes), int(each.defects), _known(each.rate))
        for arm, each in zip(experiment.arms, of_arms, strict=True)
    ]
    control, *others = of_arms
    comparisons = []
    for arm, each in zip(experiment.arms[1:], others, strict=True):
        # Of several arms, each interval is wider, so that all of them hold at once.
        found = difference(control, each, experiment.alpha / len(others), experiment.detect)
        said = advice(found.interval, experiment.margin)
        comparisons.append(Comparison(arm.name, _known(found.value), found.interval, said, _known(found.progress)))
    return ExperimentReport(experiment.name, arms, comparisons)


def _known(number: SupportsFloat) -> float | None:
    """A number, or None for NaN."""
    found = float(number)
    return None if math.isnan(found) else found


@dataclass(frozen=True)
class Experiments:
    """The experiments of a server, by name, with the outcomes of all."""

    known: Mapping[str, Experiment]
    outcomes: Outcomes | None

    def on(self, model: str | None, header: str | None) -> tuple[Experiment, Arm] | None:
        """The experiment on a model, and the arm of the key in the header, if a request has one. Raises RefusedError
        where that is no key."""
        found = next((each for each in self.known.values() if each.on == model), None)
        return (found, found.arm_of(key_of_header(header))) if found and header is not None else None

    def get(self, name: str) -> Experiment:
        if name not in self.known:
            raise RefusedError("not_found", f"there is no experiment {name[:80]!r}")
        return self.known[name]

    async def add(self, name: str, posted: Sequence[PostedOutcome]) -> int:
        """Adds outcomes, and returns how many, once they are on disk. Raises RefusedError where one has no usable key
        or id, or nothing can be written now."""
        experiment = self.get(name)
        found = []
        for number, each in enumerate(posted):
            key = checked_key(each.key, f"outcomes[{number}].key")
            id_ = checked_key(each.id, f"outcomes[{number}].id")
            found.append(StoredOutcome(name, id_, experiment.arm_of(key).name, key, each.defect))
        await self._answer(self._kept.add(found))
        return len(found)

    async def report(self, name: str) -> ExperimentReport:
        """Makes the report of an experiment. Raises RefusedError where outcomes cannot be read now."""
        experiment = self.get(name)
        return report_of(experiment, await self._answer(self._kept.sums(name)))

    @property
    def _kept(self) -> Outcomes:
        assert self.outcomes is not None
        return self.outcomes

    @staticmethod
    async def _answer(asked: Future[T]) -> T:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), ANSWER_SECONDS)
        except (UnavailableError, TimeoutError, asyncio.TimeoutError) as error:
            message = (
                "outcomes cannot be kept or read now (the log of the server says why): ask again; "
                "an outcome with an id that is known counts once"
            )
            raise RefusedError("unavailable", message, retry_after=1.0) from error
