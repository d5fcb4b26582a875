"""A finished run folder of made numbers: the files and their parts are written by the code that writes real ones."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import FEW_ROWS

from prunetime import __version__
from prunetime.core.arch import ArchSpec, Dims
from prunetime.core.artifact import write_json
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.core.machine import this_machine
from prunetime.core.mask import rank
from prunetime.core.task import Task
from prunetime.latency.measure import Samples, summarise
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.sublayers import ProfileKey, ffn_level
from prunetime.latency.timing import SETTINGS, SamplesBySetting
from prunetime.pipeline.stages.front import POINTS, front_json, name_of
from prunetime.pipeline.stages.verify import summaries
from prunetime.pipeline.verdict import judge
from prunetime.search.archive import Archive, Evaluation, spread
from prunetime.search.evolution import SearchSettings, rescore, search
from prunetime.search.space import Genome, Space
from prunetime.settings import Settings

MINILM = Dims(layers=6, hidden=384, heads=12, head_dim=32, ffn=1536, vocabulary=30522, positions=512)
BUDGET = Budget(share=0.45, seq_len=48)
SLICES = {"all": 2400, "unseen:product_uid": 1180, "brand=Behr": 212}

MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """A run of some choices, written once: tests take copies."""
    folder, known = tmp_path_factory.mktemp("runs"), {}

    def write(**choices: Any) -> Path:
        key = repr(choices)
        if key not in known:
            known[key] = folder / str(len(known))
            write_run(known[key], **choices)
        return known[key]

    return write


@pytest.fixture
def make_run(written: MakeRun, tmp_path: Path) -> MakeRun:
    return lambda **choices: shutil.copytree(written(**choices), tmp_path / "run")


def write_run(
    run: Path,
    *,
    budget: Budget = BUDGET,
    dims: Dims = MINILM,
    genome: Genome | None = None,
    slices: dict[str, int] = SLICES,
    evaluations: int = 150,
    attempts: Sequence[float] = (),
    **names: Any,
) -> Path:
    """A run that chose `genome` (what the search found, by default); `names` replace names in run.json."""
    run.mkdir()
    profile, space = made_profile(dims, budget), Space(dims)
    budget_us = budget.resolve(profile.floor_and_dense(budget)[1])
    with Archive(run / "evaluations.jsonl", "digest") as archive:
        settings = SearchSettings(0.97 * budget_us, evaluations, seed=0, screened=1)
        search(space, lambda spec: profile.predict(spec, budget), MadeScorer(dims, 0.006), archive, settings)
        if genome is not None and genome not in archive:
            archive.add(Evaluation(genome, profile.predict(space.spec(genome), budget), 0.99, "evolution", evaluations))
        last = rescore(space, archive.within(settings.budget_us)[:8], MadeScorer(dims, 0.002))
        if genome is not None:
            last = [archive[genome], *(one for one in last if one.genome != genome)]
        chosen = last[0]
        best = {
            kind: next((e for e in archive.within(settings.budget_us) if e.kind == kind), None)
            for kind in ("uniform", "depth")
        }
        front = [list(e.genome) for e in archive.front()]
        points = spread(archive.front(), archive[chosen.genome], POINTS)
    spec = space.spec(chosen.genome)
    record = made_record(budget, dims, names)
    write_json(run / "run.json", record)
    write_json(run / "policy.json", made_policy(dims, generations=40))
    write_json(run / "profile.json", profile.to_json())
    write_json(run / "mask.json", rank(made_importance(dims), spec).to_json())
    found = {"target_us": settings.budget_us, "front": front}
    found["chosen"], found["finalists"] = asdict(chosen), [asdict(e) for e in last]
    found["baselines"] = {kind: asdict(e) if e else None for kind, e in best.items()}
    write_json(run / "search.json", found)
    write_json(run / "front.json", made_front(profile, points, budget))
    if attempts:
        write_json(run / "attempts.json", [{"measured_over_predicted": over} for over in attempts])
    gate = made_times(profile, spec, budget, 1.01)
    write_json(run / "gate.json", judge(budget, gate).to_json())
    write_json(run / "verify.json", made_verification(profile, spec, budget, chosen.predicted_us, slices))
    return run


class MadeScorer:
    """An agreement that falls with what is pruned, more in some layers than in others, with noise of `deviation`."""

    def __init__(self, dims: Dims, deviation: float) -> None:
        self.dims, self.deviation = dims, deviation
        self.rng = np.random.default_rng(5)

    def __call__(self, specs: Sequence[ArchSpec]) -> list[float]:
        return [self.score(spec) + float(self.rng.normal(0, self.deviation)) for spec in specs]

    def score(self, spec: ArchSpec) -> float:
        kept = [
            0.6 * (layer.heads / self.dims.heads) ** 0.4 + 0.4 * (layer.ffn / self.dims.ffn) ** 0.5
            for layer in spec.layers
        ]
        weights = 1.0 + 0.8 * np.cos(2.5 * np.arange(len(kept)))
        return 0.5 + 0.4 * float(np.average(kept, weights=weights)) ** 0.6


def made_profile(dims: Dims, budget: Budget) -> LatencyProfile:
    key = ProfileKey(
        "0123456789abcdef", "0.1.0-8f3a", "avx512", "bert", dims, budget.threads, budget.batch, budget.seq_len
    )
    attention = (0.0, *(0.10 + 0.062 * heads for heads in range(1, dims.heads + 1)))
    ffn = (0.0, *(0.06 + 0.031 * tiles for tiles in range(1, ffn_level(dims.ffn) + 1)))
    measured = {
        f"{scope}/{condition}/{statistic}": (
            (180.0 + 90.0 * (scope == "text"))
            * (1.0 + 0.3 * (condition == "idle"))
            * (1.0 + 0.2 * (statistic == "p99")),
            (4200.0 + 90.0 * (scope == "text"))
            * (1.0 + 0.1 * (condition == "idle"))
            * (1.0 + 0.1 * (statistic == "p99")),
        )
        for scope, condition in SETTINGS
        for statistic in ("p50", "p99")
    }
    pooled = (tuple(0.4 * units for units in attention), tuple(0.1 * units for units in ffn))
    return LatencyProfile(key, 310.0, (0.4, 0.4), 0.0, attention, ffn, *pooled, measured_us=measured)


def made_times(profile: LatencyProfile, spec: ArchSpec, budget: Budget, off: float) -> SamplesBySetting:
    """Samples around what the profile predicts, `off` times that for the pruned model."""
    rng = np.random.default_rng(1)
    timed: SamplesBySetting = {}
    for scope, condition in SETTINGS:
        setting = Budget(share=1.0, scope=scope, condition=condition, seq_len=budget.seq_len)
        middle = {
            "dense": profile.floor_and_dense(setting)[1],
            "pruned": off * profile.predict(spec, setting),
        }
        drift = rng.normal(1.0, 0.01, (24, 1))
        timed[scope, condition] = {
            name: Samples.of_wall(us * drift * (1.0 + rng.gamma(1.2, 0.008, (24, 40)))) for name, us in middle.items()
        }
    return timed


def made_front(profile: LatencyProfile, points: Sequence[Evaluation], budget: Budget) -> dict[str, Any]:
    """The points take 1 % more than predicted, 2 % less, 3 % more, ..."""
    space, samples = Space(profile.key.dims), {}
    for index, point in enumerate(points):
        off = 1.0 + 0.01 * (index + 1) * (-1) ** index
        timed = made_times(profile, space.spec(point.genome), budget, off)[budget.scope, budget.condition]
        samples |= {"dense": timed["dense"], name_of(point): timed["pruned"]}
    return front_json(points, samples, budget.statistic, profile.floor_and_dense(budget)[1])


def made_verification(
    profile: LatencyProfile, spec: ArchSpec, budget: Budget, predicted_us: float, slices: dict[str, int]
) -> dict[str, Any]:
    timed = made_times(profile, spec, budget, 0.99)
    latency = {name: summarise(s, budget.statistic) for name, s in timed[budget.scope, budget.condition].items()}
    quality = {}
    for index, (name, rows) in enumerate(slices.items()):
        half = 0.5 / np.sqrt(rows)
        dense, pruned = 0.8731 - 0.021 * index, 0.8694 - 0.024 * index
        estimates = {"dense": (dense, half), "pruned": (pruned, half), "difference": (pruned - dense, half / 3)}
        quality[name] = {
            model: {"value": value, "ci95": [value - spread, value + spread], "rows": rows}
            for model, (value, spread) in estimates.items()
        }
    embeddings = profile.key.dims.vocabulary * profile.key.dims.hidden
    specs = {"dense": ArchSpec.full(profile.key.dims), "pruned": spec}
    rows_of = {
        name: {
            "p50_us": latency[name].p50_us,
            "p99_us": latency[name].p99_us,
            "ci95_us": list(latency[name].of(budget.statistic).ci95),
            "metric": "auc",
            "value": quality["all"][name]["value"],
            "ci95": quality["all"][name]["ci95"],
            "params": embeddings + specs[name].weights(profile.key.dims),
        }
        for name in specs
    }
    return {
        "budget": budget.to_json(),
        "budget_us": budget.resolve(latency["dense"].of(budget.statistic).value),
        "verdict": judge(budget, timed).to_json(),
        **rows_of,
        "latency": summaries(timed, budget.statistic),
        "quality": quality,
        "parity": 3.1e-6,
        "predicted_us": predicted_us,
        "spec": spec.to_json(),
        "machine": this_machine().to_json(),
    }


def made_record(budget: Budget, dims: Dims, names: dict[str, Any]) -> dict[str, Any]:
    columns = {"text": ["query", "title"], "label": "label", "group": "query"} | names.get("columns", {})
    settings = Settings(
        model=names.get("model", "models/all-MiniLM-L6-v2"),
        data=names.get("data", "home_depot/train.tsv"),
        budget=budget,
        text=tuple(columns["text"]),
        label=columns["label"],
        group=columns["group"],
        slices=tuple(name for name in SLICES if name != "all"),
        metric="auc",
        effort=RunPlan(**FEW_ROWS),
        precision="fp32",
    )
    return {
        "settings": settings.to_json(),
        "digest": "0" * 64,
        "task": Task("classification", ("0", "1"), tuple(columns["text"]), budget.seq_len).to_json(),
        "columns": columns,
        "metric": "auc",
        "higher_is_better": True,
        "rows": {"train": 19210, "valid": 2390, "test": 2400},
        "groups": {"train": 3840, "valid": 481, "test": 477},
        "dims": dims.to_json(),
        "warnings": names.get("warnings", ["12 of the 2400 rows of test have the texts of a row of train."]),
        "machine": this_machine().to_json(),
        "versions": {"prunetime": __version__, "python": platform.python_version(), "torch": "2.13.0+cpu"},
    }


def made_policy(dims: Dims, generations: int) -> list[dict[str, Any]]:
    """A policy that comes to prefer fewer heads in layer 1."""
    log = []
    for generation in range(1, generations + 1):
        shares = np.ones((2 * dims.layers, 2))
        shares[2, 0] += 2.0 * generation
        preferences = (shares / shares.sum()).tolist()
        log.append({"generation": generation, "genome": [1] * (2 * dims.layers), "preferences": preferences})
    return log


def made_importance(dims: Dims) -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    widths = {"heads": dims.heads, "attention_rows": dims.hidden, "ffn": dims.ffn, "ffn_rows": dims.hidden}
    return [{name: rng.gamma(1.0, 1.0, width) for name, width in widths.items()} for _ in range(dims.layers)]
