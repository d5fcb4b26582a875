"""A few points of the archive's Pareto front, timed: what other budgets would get, and how far predictions are off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prunetime.core.arch import ArchSpec
from prunetime.core.precision import PrecisionPlan
from prunetime.latency.measure import Samples, pinned, ratio, summarise
from prunetime.latency.predictor import LatencyProfile
from prunetime.latency.timing import calls_of_specs, time_budget
from prunetime.pipeline.run import Progress, Run
from prunetime.pipeline.settings import Settings
from prunetime.pipeline.source import Source
from prunetime.pipeline.stages import archive_digest
from prunetime.search.archive import Archive, Evaluation, spread

POINTS = 6
ROUNDS, CALLS = 12, 10


def measure_front(run: Run, source: Source, settings: Settings, latency: LatencyProfile, plan: PrecisionPlan) -> None:
    """Times points of the front with random weights, the chosen structure among them; leaves `front.json`."""
    config, budget = source.pretrained.config, settings.budget
    with Archive(run.path("evaluations.jsonl"), archive_digest(run, settings)) as archive:
        chosen = archive[tuple(run.read("search.json")["chosen"]["genome"])]
        points = spread(archive.front(), chosen, POINTS)

    def work(_: Progress) -> None:
        space, dense_us = settings.space(config.dims), latency.floor_and_dense(budget)[1]
        specs = {name_of(point): space.spec(point.genome) for point in points} | {"dense": ArchSpec.full(config.dims)}
        with pinned(budget.threads):
            calls = calls_of_specs(specs, config, source.tokenizer, source.task.read_together, budget, plan)
            samples = time_budget(calls, budget, ROUNDS, CALLS)
        run.write("front.json", front_json(points, samples, budget.statistic, dense_us))

    inputs = [[point.to_json() for point in points], budget.to_json(), plan.to_json()]
    run.do("front", "Measure points of the Pareto front", inputs, ["front.json"], work)


def front_json(
    points: Sequence[Evaluation], samples: Mapping[str, Samples], statistic: str, dense_us: float
) -> dict[str, Any]:
    """What `samples` (by `name_of`, and `dense`, of the same rounds) say of `points`.

    A point's measured microseconds are its share of dense in these rounds, times `dense_us`, the dense latency by which
    it was predicted: a clock that has drifted since then is no error of the prediction.
    """
    found = []
    for point in points:
        measured = ratio(samples[name_of(point)], samples["dense"], statistic).scaled(dense_us)
        found.append(
            {
                "genome": point.genome,
                "predicted_us": point.predicted_us,
                "score": point.score,
            }
            | measured.to_json("measured_us", "ci95_us")
        )
    return {"dense": summarise(samples["dense"], statistic).to_json(), "points": found}


def name_of(point: Evaluation) -> str:
    return "-".join(map(str, point.genome))
