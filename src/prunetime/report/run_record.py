"""The record of a finished run, read from the files of its folder and checked, so that drawing it can rely on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.core.estimate import Estimate
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.core.task import Task
from prunetime.errors import InputError, PrunetimeError
from prunetime.latency.measure import LatencySummary
from prunetime.latency.predictor import LatencyProfile
from prunetime.report.alternatives_record import Alternatives
from prunetime.report.schema import Json, estimate, latency_of, number, order_kept_of
from prunetime.report.search_record import (
    KeepRatios,
    PolicyPreferences,
    ProxyCorrelation,
    ScoredStructure,
    SearchResult,
    TimedFront,
)
from prunetime.search.space import Space
from prunetime.settings import Settings
from prunetime.tasks.confusion import Confusion
from prunetime.tasks.metrics import OrderKept

Parsed = TypeVar("Parsed")

MODELS = ("dense", "pruned")


@dataclass(frozen=True)
class LatencyVerdict:
    """Whether a measurement was inside the budget; `measured` and `limit` are microseconds, or shares if `share`."""

    met: bool
    noisy: bool
    measured: Estimate
    limit: float
    share: bool

    @classmethod
    def from_json(cls, data: Json) -> LatencyVerdict:
        measured, limit = estimate(data, "measured"), number(data["limit"])
        return cls(bool(data["met"]), bool(data["noisy"]), measured, limit, bool(data["share"]))


@dataclass(frozen=True)
class MetricComparison:
    """The metric of both models on the `examples` of one slice of test; `difference` is pruned less dense, paired.

    `agreement` is how far the pruned model's answers are the dense one's, where these were all that it was trained on.
    """

    name: str
    examples: int
    dense: Estimate
    pruned: Estimate
    difference: Estimate
    agreement: Estimate | None = None

    @classmethod
    def from_json(cls, name: str, data: Json) -> MetricComparison:
        agreement = estimate(data["agreement"]) if "agreement" in data else None
        dense, pruned, difference = (estimate(data[m]) for m in (*MODELS, "difference"))
        return cls(name, int(data["pruned"]["rows"]), dense, pruned, difference, agreement)


BASELINES = {
    "tfidf": "TF-IDF and a linear model",
    "embeddings": "embeddings of the encoder as it came, and a linear model",
    "cosine": "cosine of those embeddings",
}
"""The names of baselines for people, by those in `baselines.json`."""


@dataclass(frozen=True)
class TeacherComparison:
    """The metric of the teacher on valid `examples`, and of every baseline by name, with the paired difference of the
    teacher less the baseline (`baselines.json`)."""

    examples: int
    teacher: Estimate
    baselines: Mapping[str, tuple[Estimate, Estimate]]

    @classmethod
    def from_json(cls, data: Json) -> TeacherComparison | None:
        """Returns None for a task that has no baselines."""
        if not data["rows"]:
            return None
        baselines = {
            BASELINES[name]: (estimate(one), estimate(one["difference"])) for name, one in data["baselines"].items()
        }
        return cls(int(data["rows"]), estimate(data["teacher"]), baselines)


@dataclass(frozen=True)
class RankConsistency:
    """The metric on valid rows after tuning without the rank-consistency loss and with it, and whether the loss is kept
    (`tune.json`)."""

    without: float
    ordered: float
    kept: bool

    @classmethod
    def from_json(cls, data: Json) -> RankConsistency | None:
        """Returns None for a run that did not try that loss."""
        if "rank_consistency" not in data:
            return None
        found = data["rank_consistency"]
        return cls(number(found["without"]), number(found["with"]), found["weight"] is not None)


@dataclass(frozen=True)
class LatencyComparison:
    """The latency of both models in one scope (`ids`, `text`) and condition (`hot`, `idle`)."""

    scope: str
    condition: str
    dense: LatencySummary
    pruned: LatencySummary

    @classmethod
    def from_json(cls, name: str, data: Json) -> LatencyComparison:
        scope, condition = name.split("/")
        return cls(scope, condition, *(latency_of(data[model]) for model in MODELS))


@dataclass(frozen=True)
class RunMetadata:
    """The settings, the data and the machine of a run (`run.json`)."""

    settings: Settings
    task: Task
    columns: Json
    metric: str
    higher_is_better: bool
    examples: Mapping[str, int]
    groups: Mapping[str, int]
    space: Space
    warnings: tuple[str, ...]
    machine: Json
    versions: Mapping[str, str]

    @classmethod
    def from_json(cls, data: Json) -> RunMetadata:
        settings = Settings.from_json(data["settings"])
        for value in settings.effort.amounts.values() if isinstance(settings.effort, RunPlan) else ():
            number(value)
        examples, groups = (
            {role: int(data[of][role]) for role in ("train", "valid", "test")} for of in ("rows", "groups")
        )
        return cls(
            settings,
            Task.from_json(data["task"]),
            {**data["columns"]},
            str(data["metric"]),
            bool(data["higher_is_better"]),
            examples,
            groups,
            settings.space(Dims.from_json(data["dims"])),
            tuple(str(warning) for warning in data["warnings"]),
            {**data["machine"]},
            {str(name): str(version) for name, version in data["versions"].items()},
        )


@dataclass(frozen=True)
class Verification:
    """The measurements of the finished model (`verify.json`).

    Only of tasks that have groups, `order_kept`; only of those that have classes, `confusion`, of each model.
    """

    budget: Budget
    budget_us: float
    verdict: LatencyVerdict
    params: Mapping[str, int]
    latency: tuple[LatencyComparison, ...]
    quality: tuple[MetricComparison, ...]
    parity: float
    predicted_us: float
    predicted_dense_us: float | None
    spec: ArchSpec
    order_kept: OrderKept | None
    confusion: Mapping[str, Confusion]

    @classmethod
    def from_json(cls, data: Json) -> Verification:
        kept, confusion = data.get("order_kept"), data.get("confusion")
        found = cls(
            Budget.from_json(data["budget"]),
            number(data["budget_us"]),
            LatencyVerdict.from_json(data["verdict"]),
            {model: int(data[model]["params"]) for model in MODELS},
            tuple(LatencyComparison.from_json(name, both) for name, both in data["latency"].items()),
            tuple(MetricComparison.from_json(name, part) for name, part in data["quality"].items()),
            number(data["parity"]),
            number(data["predicted_us"]),
            number(data["predicted_dense_us"]) if "predicted_dense_us" in data else None,
            ArchSpec.from_json(data["spec"]),
            order_kept_of(kept) if kept else None,
            {name: Confusion.from_json(confusion["labels"], confusion[name]) for name in MODELS} if confusion else {},
        )
        if not found.quality or found.quality[0].name != "all":
            raise ValueError("the quality on all examples is missing")
        if not any(map(found.is_judged, found.latency)):
            raise ValueError("the latency in the budget's own setting is missing")
        return found

    def is_judged(self, latency: LatencyComparison) -> bool:
        """Returns whether the budget is about this scope and condition."""
        return (latency.scope, latency.condition) == (self.budget.scope, self.budget.condition)


@dataclass(frozen=True)
class RunRecord:
    """Everything that the report shows of a run.

    `measured_over_predicted` is of every structure after which the run chose again. A run that learned its masks has
    no `search` and no `front`, and nothing was `scored`; it has `learned`. `dims` are of the answer, and `mask` is what
    it keeps of the dense model; None where the answer is another model. `teacher` is None where it was compared with no
    baselines. `unpruned` are the precisions that alone brought the dense model inside the budget, if any did. `stages`
    are titles and seconds, the longest first.
    """

    folder: Path
    metadata: RunMetadata
    plan: RunPlan
    verification: Verification
    teacher: TeacherComparison | None
    precheck: LatencyVerdict
    dims: Dims
    mask: Mask | None
    profile: LatencyProfile
    search: SearchResult | None
    front: TimedFront | None
    scored: tuple[ScoredStructure, ...]
    measured_over_predicted: tuple[float, ...]
    policy: tuple[PolicyPreferences, ...]
    proxy: ProxyCorrelation | None
    learned: tuple[KeepRatios, ...]
    alternatives: Alternatives | None
    unpruned: PrecisionPlan | None
    rank_consistency: RankConsistency | None
    stages: tuple[tuple[str, float], ...]


def kept_run(folder: Path) -> Path:
    """Returns the folder whose record is that of the run `folder`: with `--method auto`, of the method that it kept.

    Raises:
        InputError: A file is missing or damaged.
    """
    if _read(folder / "run.json", lambda data: str(data["settings"]["method"])) != "auto":
        return folder
    return folder / _read(folder / "result.json", lambda data: str(data["method"]))


def read(folder: Path) -> RunRecord:
    """Reads and checks a run folder.

    Raises:
        InputError: A file is missing or damaged; the message names it.
    """
    metadata = _read(folder / "run.json", RunMetadata.from_json)
    verification = _read(folder / "verify.json", Verification.from_json)
    space = metadata.space
    answer = folder / "answer.json"
    dims, mask = (
        _read(answer, lambda data: _answer(data, space.dims))
        if answer.exists()
        else (space.dims, _read(folder / "mask.json", lambda data: _checked_mask(data, space.dims)))
    )
    if mask and mask.spec() != verification.spec:
        raise InputError(
            f"{folder / 'verify.json'} is of another structure than mask.json: the run has not come to its end; "
            "run `prunetime prune` again to finish it"
        )
    search, front = None, None
    lossless = folder / "lossless.json"
    unpruned = _read(lossless, _unpruned) if lossless.exists() else None
    scored: tuple[ScoredStructure, ...] = ()
    if metadata.settings.method == "search" and not unpruned:
        search = _read(folder / "search.json", lambda data: SearchResult.from_json(data, space))
        front = _read(folder / "front.json", lambda data: TimedFront.from_json(data, space))
        scored = _read_scored(folder / "evaluations.jsonl", space)
        if search.chosen.spec not in {one.spec for one in scored}:
            raise InputError(f"{folder / 'search.json'}: the chosen structure is not in evaluations.jsonl")
    ratios = (folder / f"{level}-ratios.json" for level in ("rows", "learned"))
    trust, alternatives, baselines, tuned = (
        folder / f"{name}.json" for name in ("trust", "alternatives", "baselines", "tune")
    )
    return RunRecord(
        folder,
        metadata,
        _plan(folder, metadata.settings),
        verification,
        _read(baselines, TeacherComparison.from_json) if baselines.exists() else None,
        _read(folder / "gate.json", LatencyVerdict.from_json),
        dims,
        mask,
        _read(folder / "profile.json", lambda data: _checked_profile(data, verification.budget, space.dims)),
        search,
        front,
        scored,
        _read_list(folder / "attempts.json", lambda attempt: number(attempt["measured_over_predicted"])),
        _read_list(folder / "policy.json", lambda one: PolicyPreferences.from_json(one, space)),
        _read(trust, ProxyCorrelation.from_json) if trust.exists() else None,
        tuple(_read(path, KeepRatios.from_json) for path in ratios if path.exists() and not search),
        _read(alternatives, Alternatives.from_json) if alternatives.exists() else None,
        unpruned,
        _read(tuned, RankConsistency.from_json) if tuned.exists() else None,
        _stages(folder),
    )


def _read(path: Path, parse: Callable[[Any], Parsed]) -> Parsed:
    content = _text_of(path)
    try:
        return parse(json.loads(content))
    except _DAMAGE as error:
        raise InputError(f"{path} is damaged ({_reason(error)}); restore it, or run `prunetime prune` again") from error


def _unpruned(data: Json) -> PrecisionPlan | None:
    return PrecisionPlan.from_json(data["plan"]) if data["met"] else None


def _plan(folder: Path, settings: Settings) -> RunPlan:
    given = settings.effort
    return given if isinstance(given, RunPlan) else _read(folder / "run-plan.json", RunPlan.from_json)


def _read_list(path: Path, parse: Callable[[Any], Parsed]) -> tuple[Parsed, ...]:
    """Reads a list of a run that may have none."""
    return _read(path, lambda data: tuple(map(parse, data))) if path.exists() else ()


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


def _read_scored(path: Path, space: Space) -> tuple[ScoredStructure, ...]:
    """Reads the lines in their order, but the first (the archive's header) and a last one that a crash has torn."""
    scored: dict[ArchSpec, ScoredStructure] = {}
    for index, line in enumerate(_text_of(path).split("\n")[1:-1], start=2):
        try:
            one = ScoredStructure.from_json(json.loads(line), space)
        except _DAMAGE as error:
            raise InputError(f"{path}: line {index} is damaged ({_reason(error)}); restore the file") from error
        scored[one.spec] = one
    return tuple(scored.values())


def _answer(data: Any, dense: Dims) -> tuple[Dims, Mask | None]:
    """Reads the sizes of the answer of a run, and its mask; another model than the dense one has none."""
    return (Dims.from_json(data["dims"]), None) if "dims" in data else (dense, _checked_mask(data["mask"], dense))


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


def _stages(folder: Path) -> tuple[tuple[str, float], ...]:
    """Reads the records of stages that say how long they took; what `trust` tuned is no part of the run."""
    paths = (path for path in sorted(folder.glob("stages/*.json")) if not path.name.startswith("trust-"))
    timed = filter(None, (_read(path, _title_and_seconds) for path in paths))
    return tuple(sorted(timed, key=lambda stage: -stage[1]))


def _title_and_seconds(data: Any) -> tuple[str, float] | None:
    return (str(data["title"]), number(data["seconds"])) if "seconds" in data else None
