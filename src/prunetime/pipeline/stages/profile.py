"""The stages before any training: the precision to search in, the latency profile, and whether a p99 can be judged."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prunetime.core.arch import ArchSpec
from prunetime.core.budget import Budget
from prunetime.core.precision import PRECISIONS, Precision, PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.errors import InputError
from prunetime.latency import plans, profiling
from prunetime.latency.sublayers import ProfileKey
from prunetime.latency.synthetic import random_batch, random_weights
from prunetime.pipeline.context import Context, stage
from prunetime.pipeline.run import digest_of
from prunetime.pipeline.stages.measure import time_reference
from prunetime.settings import AUTO

MARGIN = 0.97
"""The search aims this far inside the budget, because predictions are off by a few per cent."""


def _given_plan(context: Context) -> list[Precision]:
    """The precision of a recorded profile, if it is of one: `auto` takes that."""
    if context.profile is None or context.settings.precision != AUTO:
        return []
    precision = profiling.parse(context.profile).key.precision
    return [one for one in PRECISIONS if one == precision]


@stage(
    "plan",
    "Choose the precision to search in",
    ["plan.json"],
    inputs=lambda context: [context.settings.precision, context.budget.to_json(), *_given_plan(context)],
)
def choose_plan(context: Context, _: Progress) -> None:
    """Chooses the precision that latencies are predicted for: the one asked for or, for `auto`, that of a recorded
    profile, or the fastest one."""
    budget, config, given = context.budget, context.config, _given_plan(context)
    if given:
        plan = PrecisionPlan.uniform(given[0])
    elif context.settings.precision == AUTO:
        dense = ArchSpec.full(config.dims)
        model = plans.EngineArguments(config, random_weights(config, dense), dense, budget.threads)
        plan = plans.fastest_uniform(model, random_batch(config, budget.batch, budget.seq_len))
    else:
        plan = PrecisionPlan.uniform(context.settings.precision)
    context.run.write("plan.json", plan.to_json())


def _key(context: Context) -> ProfileKey:
    budget = context.budget
    return ProfileKey.here(context.config, budget.threads, budget.batch, budget.seq_len, context.plan)


def _covered(context: Context) -> dict[str, Any]:
    return {"blocks": context.settings.block_shape, "tokens": context.settings.tokens}


def _profile_inputs(context: Context) -> dict[str, Any]:
    given = context.profile
    text = given.read_text() if given and given.is_file() else None
    return {"key": digest_of(asdict(_key(context))), **_covered(context), "given": text}


@stage(
    "profile",
    lambda context: f"Read {context.profile}" if context.profile else "Profile this machine",
    ["profile.json"],
    inputs=_profile_inputs,
)
def record_profile(context: Context, progress: Progress) -> None:
    """Measures the latencies of sub-layers on this machine, or reads a recorded profile."""
    covered = _covered(context)
    if context.profile:
        recorded = profiling.read(context.profile, _key(context))
        recorded.check_covers(**covered)
    else:
        source = context.source
        recorded = profiling.record(
            context.config,
            source.tokenizer,
            source.task.read_together,
            context.budget,
            plan=context.plan,
            timing=context.settings.timing,
            **covered,
            on_progress=progress,
            say=context.run.reporter.say,
        )
    context.run.write("profile.json", recorded.to_json())


def profile_machine(context: Context) -> None:
    """Measures this machine, or takes the recorded profile that was given; refuses a budget below the floor.

    Raises:
        ProfileError: the given profile is of another machine, engine build, model or setting, or lacks the blocks or
            the dropped tokens of the settings.
        InputError: tokens are to be dropped where the head reads every token's row, or the budget is too small.
    """
    config, budget, say = context.config, context.budget, context.run.reporter.say
    if context.settings.tokens and not config.drops_tokens:
        raise InputError(
            "--tokens: no token of this model can be dropped, because its head reads other rows than the first token's "
            f"or {config.family} knows distances between tokens: leave it out"
        )
    record_profile(context)
    if context.reference != context.plan:
        time_reference(context)
    floor_us, dense_us = context.floor_us, context.dense_us
    in_plan = f" ({context.dense_in_plan_us:.0f} us in {context.plan.default.precision})"
    say(
        f"dense {dense_us:.0f} us{in_plan * (context.reference != context.plan)}, floor (every layer gone) "
        f"{floor_us:.0f} us, budget {context.budget_us:.0f} us"
    )
    if context.latency.noisy:
        say("measurements of this machine disagree: it is busy, and predictions may be off")
    check_above_floor(budget, floor_us, dense_us)


def check_above_floor(budget: Budget, floor_us: float, dense_us: float) -> None:
    """Raises InputError where what the search aims at, `MARGIN` times the budget, is not above the floor."""
    budget_us = budget.resolve(dense_us)
    if budget_us * MARGIN > floor_us:
        return
    least_us = floor_us / MARGIN
    if budget.share is None:
        least = f"more than {least_us:.4g}us"
    elif least_us < dense_us:
        least = f"more than {100 * least_us / dense_us:.3g}%"
    else:
        least = "a time, for no share of dense is above it"
    raise InputError(
        f"the budget {budget} is {budget_us:.4g} us, of which the search aims at {MARGIN:.0%}, "
        f"{budget_us * MARGIN:.4g} us: that is not above the floor of {floor_us:.4g} us, which this model takes here "
        f"with every layer gone (dense: {dense_us:.4g} us); give --latency {least}"
    )
