"""The stage that times points of the archive's Pareto front: what other budgets would get, and how far predictions are
off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prunetime.core.arch import ArchSpec
from prunetime.core.progress import Progress
from prunetime.latency.measure import Samples, pinned, ratio, summarise
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.stages.measure import calls_of_structures, time_briefly
from prunetime.search.archive import Archive, Evaluation, spread

POINTS = 6


def _points(context: Context) -> list[Evaluation]:
    with Archive(context.run.path("evaluations.jsonl"), context.archive_digest) as archive:
        chosen = archive[tuple(context.run.read("search.json")["chosen"]["genome"])]
        return spread(archive.front(), chosen, POINTS)


@stage(
    "front",
    "Measure points of the Pareto front",
    ["front.json"],
    inputs=lambda context: [
        [asdict(point) for point in _points(context)],
        context.budget.to_json(),
        context.plan.to_json(),
    ],
)
def measure_front(context: Context, _: Progress) -> None:
    """Times points of the Pareto front with random weights, the chosen structure among them."""
    budget, points = context.budget, _points(context)
    specs = {name_of(point): context.space.spec(point.genome) for point in points}
    specs["dense"] = ArchSpec.full(context.config.dims)
    with pinned(budget.threads):
        samples = time_briefly(context, calls_of_structures(context, specs, context.plan))
    context.run.write("front.json", front_json(points, samples, budget.statistic, context.dense_in_plan_us))


def front_json(
    points: Sequence[Evaluation], samples: Mapping[str, Samples], statistic: str, dense_us: float
) -> dict[str, Any]:
    """The content of `front.json`: `points` with their latencies in `samples` (by name, and `dense`).

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
