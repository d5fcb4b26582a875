"""What a run found, read from its folder and checked, so that everything after this can rely on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.budget import Budget
from prunetime.core.mask import Mask
from prunetime.core.task import Task
from prunetime.errors import InputError, PrunetimeError
from prunetime.latency.measure import LatencySummary
from prunetime.latency.predictor import LatencyProfile
from prunetime.report.structures import Evaluated, Front, LearnedLevel, Preferences, Search, TrustInScores, policy_of
from prunetime.report.values import Interval, Json, latency_of, number
from prunetime.search.space import Space

Part = TypeVar("Part")


@dataclass(frozen=True)
class Verdict:
    """`measured` and `limit` are microseconds, or shares of dense where `share`."""

    met: bool
    noisy: bool
    measured: Interval
    limit: float
    share: bool

    @classmethod
    def of(cls, data: Json) -> Verdict:
        measured = Interval.of(data["measured"], data["ci95"])
        return cls(bool(data["met"]), bool(data["noisy"]), measured, number(data["limit"]), bool(data["share"]))


@dataclass(frozen=True)
class Quality:
    """The metric on the test `rows` of one slice; `difference` is pruned less dense, on the same resamples."""

    name: str
    rows: int
    dense: Interval
    pruned: Interval
    difference: Interval

    @classmethod
    def of(cls, name: str, data: Json) -> Quality:
        estimates = (Interval.of(data[m]["value"], data[m]["ci95"]) for m in ("dense", "pruned", "difference"))
        return cls(name, int(data["pruned"]["rows"]), *estimates)


@dataclass(frozen=True)
class Setting:
    """Latency of both models in one scope (`ids`, `text`) and condition (`hot`, `idle`)."""

    scope: str
    condition: str
    dense: LatencySummary
    pruned: LatencySummary

    @classmethod
    def of(cls, name: str, data: Json) -> Setting:
        scope, condition = name.split("/")
        return cls(scope, condition, *(latency_of(data[model]) for model in ("dense", "pruned")))


@dataclass(frozen=True)
class Record:
    """`run.json`: what was asked for, of which data, on which machine."""

    settings: Json
    task: Task
    columns: Json
    metric: str
    higher_is_better: bool
    rows: Mapping[str, int]
    groups: Mapping[str, int]
    space: Space
    warnings: tuple[str, ...]
    machine: Json
    versions: Mapping[str, str]

    @classmethod
    def of(cls, data: Json) -> Record:
        for value in data["settings"]["effort"].values():
            if not isinstance(value, str):
                number(value)
        return cls(
            {**data["settings"]},
            Task.from_json(data["task"]),
            {**data["columns"]},
            str(data["metric"]),
            bool(data["higher_is_better"]),
            {role: int(data["rows"][role]) for role in ("train", "valid", "test")},
            {role: int(data["groups"][role]) for role in ("train", "valid", "test")},
            _space(data["settings"], Dims.from_json(data["dims"])),
            tuple(str(warning) for warning in data["warnings"]),
            {**data["machine"]},
            {str(name): str(version) for name, version in data["versions"].items()},
        )


@dataclass(frozen=True)
class Verification:
    """`verify.json`: what was measured in the end."""

    budget: Budget
    budget_us: float
    verdict: Verdict
    params: Mapping[str, int]
    settings: tuple[Setting, ...]
    quality: tuple[Quality, ...]
    parity: float
    predicted_us: float
    spec: ArchSpec

    @classmethod
    def of(cls, data: Json) -> Verification:
        found = cls(
            Budget.from_json(data["budget"]),
            number(data["budget_us"]),
            Verdict.of(data["verdict"]),
            {model: int(data[model]["params"]) for model in ("dense", "pruned")},
            tuple(Setting.of(name, setting) for name, setting in data["latency"].items()),
            tuple(Quality.of(name, part) for name, part in data["quality"].items()),
            number(data["parity"]),
            number(data["predicted_us"]),
            ArchSpec.from_json(data["spec"]),
        )
        if not found.quality or found.quality[0].name != "all":
            raise ValueError("the quality on all rows is missing")
        if not any(found.is_judged(setting) for setting in found.settings):
            raise ValueError("the latency in the budget's own setting is missing")
        return found

    def is_judged(self, setting: Setting) -> bool:
        """Whether the budget is about this setting."""
        return (setting.scope, setting.condition) == (self.budget.scope, self.budget.condition)

    @property
    def judged(self) -> Setting:
        """Latency in the setting of the budget."""
        return next(setting for setting in self.settings if self.is_judged(setting))


@dataclass(frozen=True)
class Findings:
    """Everything the report shows. `overs` is measured over predicted of every structure that was searched for again.

    Where masks were `learned`, there was no search: nothing was `evaluated`, and there is no `front`.
    """

    folder: Path
    record: Record
    verified: Verification
    gate: Verdict
    mask: Mask
    profile: LatencyProfile
    search: Search | None
    front: Front | None
    evaluated: tuple[Evaluated, ...]
    overs: tuple[float, ...]
    policy: tuple[Preferences, ...]
    trust: TrustInScores | None
    learned: tuple[LearnedLevel, ...]


def kept_run(folder: Path) -> Path:
    """The folder of the run whose findings are those of the run `folder`: of `--method auto` the one that it kept.

    Raises InputError as `read` does.
    """
    if _read(folder / "run.json", lambda data: str(data["settings"]["method"])) != "auto":
        return folder
    return folder / _read(folder / "result.json", lambda data: str(data["method"]))


def read(folder: Path) -> Findings:
    """Reads and checks a run folder; raises InputError naming the file that is missing or damaged."""
    record = _read(folder / "run.json", Record.of)
    verified = _read(folder / "verify.json", Verification.of)
    mask = _read(folder / "mask.json", lambda data: _checked_mask(data, record.space.dims))
    if mask.spec() != verified.spec:
        raise InputError(
            f"{folder / 'verify.json'} is of another structure than mask.json: the run has not come to its end; "
            "run `prunetime prune` again to finish it"
        )
    search, front = None, None
    evaluated: tuple[Evaluated, ...] = ()
    if record.settings["method"] == "search":
        search = _read(folder / "search.json", lambda data: Search.of(data, record.space))
        front = _read(folder / "front.json", lambda data: Front.of(data, record.space))
        evaluated = _read_evaluations(folder / "evaluations.jsonl", record.space)
        if search.chosen.spec not in {one.spec for one in evaluated}:
            raise InputError(f"{folder / 'search.json'}: the chosen structure is not in evaluations.jsonl")
    ratios = [folder / f"{level}-ratios.json" for level in ("rows", "learned")]
    attempts, policy, trust = (folder / f"{name}.json" for name in ("attempts", "policy", "trust"))
    return Findings(
        folder,
        record,
        verified,
        _read(folder / "gate.json", Verdict.of),
        mask,
        _read(folder / "profile.json", lambda data: _checked_profile(data, verified.budget, record.space.dims)),
        search,
        front,
        evaluated,
        _read(attempts, _overs) if attempts.exists() else (),
        _read(policy, lambda data: policy_of(data, record.space)) if policy.exists() else (),
        _read(trust, TrustInScores.of) if trust.exists() else None,
        tuple(_read(path, LearnedLevel.of_json) for path in ratios if path.exists()) if not search else (),
    )


def _read(path: Path, parse: Callable[[Any], Part]) -> Part:
    content = _text_of(path)
    try:
        return parse(json.loads(content))
    except _DAMAGE as error:
        raise InputError(f"{path} is damaged ({_reason(error)}); restore it, or run `prunetime prune` again") from error


_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, PrunetimeError)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path.parent} is no finished run: cannot read {path.name} ({error.strerror}); "
            "run `prunetime prune` to its end first"
        ) from error


def _reason(error: BaseException) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__


def _read_evaluations(path: Path, space: Space) -> tuple[Evaluated, ...]:
    """The evaluations in their order; the first line is the archive's header, one torn by a crash is left out."""
    evaluated: dict[ArchSpec, Evaluated] = {}
    for index, line in enumerate(_text_of(path).split("\n")[1:-1], start=2):
        try:
            one = Evaluated.of(json.loads(line), space)
        except _DAMAGE as error:
            raise InputError(f"{path}: line {index} is damaged ({_reason(error)}); restore the file") from error
        evaluated[one.spec] = one
    return tuple(evaluated.values())


def _space(settings: Json, dims: Dims) -> Space:
    blocks = settings["blocks"]
    return Space(dims, bool(settings["tokens"]), tuple(blocks) if blocks else None)


def _checked_mask(data: Any, dims: Dims) -> Mask:
    mask = Mask.from_json(data)
    if len(mask.layers) != dims.layers:
        raise ValueError(f"{len(mask.layers)} layers, the encoder has {dims.layers}")
    mask.check(dims)
    return mask


def _checked_profile(data: Any, budget: Budget, dims: Dims) -> LatencyProfile:
    profile = LatencyProfile.from_json(data)
    if profile.key.dims != dims:
        raise ValueError("it is of another encoder")
    number(profile.predict(ArchSpec.full(dims), budget))
    return profile


def _overs(data: Any) -> tuple[float, ...]:
    return tuple(number(attempt["measured_over_predicted"]) for attempt in data)
