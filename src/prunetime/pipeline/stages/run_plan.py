"""The stage that plans how much a run trains and searches, by how fast this machine is."""

from __future__ import annotations

import tempfile
import time
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from prunetime.core.effort import Effort
from prunetime.core.progress import Progress
from prunetime.pipeline.beside import StaticSource
from prunetime.pipeline.context import RUN_PLAN, Context, stage
from prunetime.pipeline.planning import TEACHER_BATCH, RunSpeed, RunWork, described, plan_of
from prunetime.pipeline.source import Source
from prunetime.pipeline.student import THREADS, training_settings
from prunetime.pruning.methods import LEARNED
from prunetime.training.distributed import fit_on_every_rank

TIMED_STEPS = 24
"""Steps of fine-tuning that are timed; the first, in which memory is found, does not count."""

PARALLEL = 0.95
"""The share of its threads' time that a step of fine-tuning computes in, on a quiet machine (0.99 in the demo)."""


def _work(context: Context) -> RunWork:
    settings, learned = context.settings, LEARNED.get(context.settings.method)
    others = [other.source for other in context.beside if not isinstance(other.source, StaticSource)]
    return RunWork(
        rows=len(context.source.roles.train),
        classes=len(context.source.task.labels),
        share=min(1.0, context.budget_us / context.dense_in_plan_us),
        trains_teacher=not settings.teacher_ready,
        levels=len(learned.levels) if learned else 0,
        hidden=context.config.dims.hidden,
        runs=context.runs,
        beside=sum(map(_weights, others)) / _weights(context.source),
        valid_rows=len(context.source.roles.valid),
        test_rows=len(context.source.roles.test),
        orders_groups=context.source.orders_groups,
    )


def _weights(source: Source) -> int:
    return source.pretrained.model.spec.weights(source.pretrained.config.dims)


def _speed(context: Context) -> RunSpeed:
    """Times some steps of fine-tuning a copy of the model; the engine's speed is that of the profile."""
    source, budget, settings = context.source, context.budget, training_settings(context, 1.0, 1e-9, TEACHER_BATCH)
    data = source.training_data(TIMED_STEPS * settings.batch_size, context.settings.seed)
    ended: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        fit_on_every_rank(
            deepcopy(source.pretrained.model),
            data,
            settings,
            Path(folder),
            on_progress=lambda _done, _of: ended.append((time.monotonic(), time.process_time())),
        )
    step, cpu = np.diff(ended, axis=0).mean(axis=0) if len(ended) > 1 else (1.0, 1.0)
    if settings.device == "cpu":  # what the steps would have taken alone, were the machine busy
        step = min(step, cpu / (PARALLEL * settings.threads))
    length = float(np.mean(source.train.tokens.lengths)) / budget.seq_len
    score_us = length * context.dense_in_plan_us / budget.batch / THREADS
    return RunSpeed(float(step) / min(settings.batch_size, len(data)), score_us / 1e6)


@stage(
    "run-plan",
    "Plan the run",
    [RUN_PLAN],
    inputs=lambda context: [context.settings.effort.to_json(), context.settings.method, context.given],
)
def plan_amounts(context: Context, _: Progress) -> None:
    """Plans rows, epochs and evaluations that take as long as the run may, by how fast this machine trains."""
    assert isinstance(context.settings.effort, Effort)
    work, speed = _work(context), _speed(context)
    plan = plan_of(context.settings.effort, work, speed)
    context.run.write(RUN_PLAN, plan.to_json())
    end = datetime.now() + timedelta(minutes=context.settings.effort.minutes)
    context.run.reporter.say(f"{described(plan, work, speed)}; done by {end:%H:%M}, or sooner")


def plan_run(context: Context) -> None:
    """Plans the run, where it was given a time rather than a plan.

    Raises:
        InputError: the time is too short.
    """
    if isinstance(context.settings.effort, Effort):
        plan_amounts(context)
