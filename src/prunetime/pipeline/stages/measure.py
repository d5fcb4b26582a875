"""The stages that time structures with random weights: can a p99 be judged, and does the chosen structure fit?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prunetime.core.arch import ArchSpec
from prunetime.core.mask import Mask
from prunetime.core.progress import Progress
from prunetime.latency.measure import Samples, TimedCall, pinned, summarise
from prunetime.latency.timing import Job, calls_of_specs, time_budget, time_settings
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.verdict import Verdict, check_judged, judge

CLEAR = 2.0
"""A p99 is inside a budget of so many times what the dense model takes, however noisy the machine is."""

MEASUREMENTS = 3
"""At most, while noise keeps the interval on both sides of the limit."""


def _calls(context: Context, specs: Mapping[str, ArchSpec]) -> dict[str, dict[str, TimedCall]]:
    source = context.source
    return calls_of_specs(
        specs, context.config, source.tokenizer, source.task.read_together, context.budget, context.plan
    )


def calls_each_round(context: Context) -> int:
    return context.settings.timing.verify_calls * (3 if context.budget.statistic == "p99" else 1)


@stage(
    "tail",
    "Measure how far the p99 varies",
    ["tail.json"],
    inputs=lambda context: [context.budget.to_json(), context.plan.to_json()],
)
def measure_tail(context: Context, progress: Progress) -> None:
    """Times the dense model against itself, as dense and candidate will be, and refuses a p99 too noisy to judge."""
    budget, samples = context.budget, dict[str, Samples]()
    setting = (budget.scope, budget.condition)
    with pinned(budget.threads):
        calls = _calls(context, dict.fromkeys(("dense", "pruned"), ArchSpec.full(context.config.dims)))
        for number in range(MEASUREMENTS):
            more = time_budget(calls, budget, context.settings.timing.verify_rounds, calls_each_round(context))
            samples = {name: np.concatenate((samples.get(name, more[name][:0]), more[name])) for name in more}
            progress(number + 1, MEASUREMENTS)
            if not judge(budget, {setting: samples}).noisy:
                break
    check_judged(judge(budget, {setting: samples}))
    context.run.write("tail.json", summarise(samples["dense"], budget.statistic).to_json())


def check_tail(context: Context) -> None:
    """Measures, for a budget on p99, whether this machine can judge one.

    A budget of `CLEAR` times the dense model's p99 needs no such precision. Raises InputError where it cannot.
    """
    if context.budget.statistic == "p99" and context.budget_us < CLEAR * context.dense_us:
        measure_tail(context)


def _chosen(context: Context) -> ArchSpec:
    return Mask.from_json(context.run.read("mask.json")).spec()


@stage(
    "gate",
    "Measure the chosen structure",
    ["gate.json"],
    inputs=lambda context: [_chosen(context).to_json(), context.budget.to_json(), context.plan.to_json()],
)
def time_chosen(context: Context, progress: Progress) -> None:
    """Times the chosen structure with random weights, so that no hour of tuning goes into a miss."""
    budget, timing = context.budget, context.settings.timing
    half = Job({}, budget, -(-timing.verify_rounds // 2), -(-timing.verify_calls // 2), seconds=0.0)
    with pinned(budget.threads):
        calls = _calls(context, {"dense": ArchSpec.full(context.config.dims), "pruned": _chosen(context)})
        timed = time_settings(calls, half, progress)
    context.run.write("gate.json", judge(budget, timed).to_json())


def precheck(context: Context) -> Verdict:
    """The verdict on the chosen structure before it is tuned."""
    time_chosen(context)
    return Verdict.from_json(context.run.read("gate.json"))
