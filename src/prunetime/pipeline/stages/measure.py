"""The stages that time structures with random weights: can a p99 be judged, and does the chosen structure fit?"""

from __future__ import annotations

from collections.abc import Mapping

from prunetime.core.arch import ArchSpec
from prunetime.core.mask import Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.latency.measure import Samples, TimedCall, pinned, ratio, summarise
from prunetime.latency.timing import Job, calls_of_specs, time_budget, time_settings
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.verdict import Verdict, check_judged, judge

CLEAR = 2.0
"""A p99 is inside a budget of so many times what the dense model takes, however noisy the machine is."""

MEASUREMENTS = 3
"""At most, while noise keeps the interval on both sides of the limit."""


CallsByScope = Mapping[str, Mapping[str, TimedCall]]
"""The calls that are timed of models, by the model's name, then by scope."""


def calls_of_structures(
    context: Context, specs: Mapping[str, ArchSpec], plan: PrecisionPlan
) -> dict[str, dict[str, TimedCall]]:
    """The calls of structures with random weights, run by `plan`."""
    source = context.source
    return calls_of_specs(specs, context.config, source.tokenizer, source.task.read_together, context.budget, plan)


def time_briefly(context: Context, calls: CallsByScope) -> dict[str, Samples]:
    """Samples of the budget's setting, by half of the rounds and a quarter of the calls that judge a budget."""
    timing = context.settings.timing
    return time_budget(calls, context.budget, -(-timing.verify_rounds // 2), -(-timing.verify_calls // 4))


def judge_briefly(context: Context, calls: CallsByScope, progress: Progress | None = None) -> Verdict:
    """The verdict on the call `pruned` beside `dense`, by half of the rounds and calls that judge a budget."""
    budget, timing = context.budget, context.settings.timing
    half = Job({}, budget, -(-timing.verify_rounds // 2), -(-timing.verify_calls // 2), seconds=0.0)
    return judge(budget, time_settings(calls, half, progress))


def calls_each_round(context: Context) -> int:
    return context.settings.timing.verify_calls * (3 if context.budget.statistic == "p99" else 1)


@stage(
    "dense",
    "Measure the dense model in the precision that budgets are shares of",
    ["dense.json"],
    inputs=lambda context: [context.budget.to_json(), context.plan.to_json()],
)
def time_reference(context: Context, _: Progress) -> None:
    """Times the dense model in the precision that a budget in % is of beside that of the profile."""
    dense = ArchSpec.full(context.config.dims)
    with pinned(context.budget.threads):
        calls = calls_of_structures(context, {"plan": dense}, context.plan)
        calls |= calls_of_structures(context, {"reference": dense}, context.reference)
        samples = time_briefly(context, calls)
    over = ratio(samples["reference"], samples["plan"], context.budget.statistic)
    context.run.write("dense.json", over.to_json("over_plan"))


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
        specs = dict.fromkeys(("dense", "pruned"), ArchSpec.full(context.config.dims))
        calls = calls_of_structures(context, specs, context.plan)
        for number in range(MEASUREMENTS):
            more = time_budget(calls, budget, context.settings.timing.verify_rounds, calls_each_round(context))
            samples = {name: Samples.concatenate((samples[name], more[name])) for name in samples} or more
            progress(number + 1, MEASUREMENTS)
            if not judge(budget, {setting: samples}).noisy:
                break
    check_judged(judge(budget, {setting: samples}))
    context.run.write("tail.json", summarise(samples["dense"], budget.statistic).to_json())


def check_tail(context: Context) -> None:
    """Measures, for a budget on p99, whether this machine can judge one.

    A budget of `CLEAR` times the dense model's p99 needs no such precision. Raises InputError where it cannot.
    """
    if context.budget.statistic == "p99" and context.budget_us < CLEAR * context.dense_in_plan_us:
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
    with pinned(context.budget.threads):
        calls = calls_of_structures(context, {"dense": ArchSpec.full(context.config.dims)}, context.reference)
        calls |= calls_of_structures(context, {"pruned": _chosen(context)}, context.plan)
        verdict = judge_briefly(context, calls, progress)
    context.run.write("gate.json", verdict.to_json())


def precheck(context: Context) -> Verdict:
    """The verdict on the chosen structure before it is tuned."""
    time_chosen(context)
    return Verdict.from_json(context.run.read("gate.json"))
