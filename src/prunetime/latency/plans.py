"""Chooses a `PrecisionPlan` by measurement: of every sub-layer the option that is fastest here, inside a stated loss of
quality."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prunetime.core.arch import ArchSpec
from prunetime.core.arrays import Float64Array, Weights
from prunetime.core.config import EncoderConfig
from prunetime.core.precision import PRECISIONS, MatrixPlan, Precision, PrecisionPlan
from prunetime.core.progress import Progress
from prunetime.inference.engine import Engine, ReferenceKernel
from prunetime.inference.ragged import Ragged
from prunetime.latency.measure import pinned, time_calls
from prunetime.latency.passes import time_parts

Loss = Callable[[Engine], float]

PAIRS = ((("query", "key", "value"), ("attention_output",)), (("ffn_input",), ("ffn_output",)))
"""The matrices that a sub-layer multiplies by first, and those that it ends with: attention, then FFN."""

NARROW: tuple[Precision, ...] = ("bf16", "int8")

_FORWARDS = 9
_CALIBRATION_ROWS = 8
_WEIGHTS_OF_LOSS = (0.0, *np.geomspace(1e-4, 1e4, 41))


@dataclass(frozen=True)
class PrecisionOption:
    """One way to run a sub-layer: the precision of its first and of its last matrix, and whether blocks are used."""

    first: Precision
    last: Precision
    sparse: bool


@dataclass(frozen=True)
class EngineArguments:
    """An encoder as `Engine` takes it, and where it runs."""

    config: EncoderConfig
    weights: Weights
    spec: ArchSpec
    threads: int = 1

    def engine(self, plan: PrecisionPlan) -> Engine:
        return Engine(self.config, self.weights, self.threads, spec=self.spec, plan=plan)


def logit_error(model: EngineArguments, batches: Sequence[Ragged]) -> Loss:
    """The loss of a model without a task: the largest difference of a logit of `batches` to float32."""
    float32 = model.engine(PrecisionPlan())
    exact = [float32.logits(batch) for batch in batches]

    def loss(engine: Engine) -> float:
        pairs = zip(batches, exact, strict=True)
        return max(float(np.abs(engine.logits(batch) - right).max(initial=0.0)) for batch, right in pairs)

    return loss


def choose(
    model: EngineArguments, batch: Ragged, loss: Loss, limit: float, on_progress: Progress | None = None
) -> PrecisionPlan:
    """The fastest plan for passes of `batch` of those whose `loss` is at most `limit`.

    Every sub-layer is timed in every option, inside whole passes. How much an option harms is measured on a few rows:
    the mean squared error of the logits with one kind of matrix rounded in all layers, which is about additive. Plans
    that trade the two at different rates (Lagrange multipliers) form a row from the fastest to float32; the loss picks
    the first that stays inside the limit. `quality_loss` of the plan is its loss.
    """
    ways = (True, False) if any(layer.blocks for layer in model.spec.layers) else (True,)
    options = [PrecisionOption(first, last, way) for way in ways for first in PRECISIONS for last in PRECISIONS]
    kinds = [(sub, end) for sub in (0, 1) for end in (0, 1)]
    steps = len(options) + 2 * len(kinds)
    report = on_progress or (lambda _done, _of: None)
    times = np.empty((len(options), 2 * len(model.spec.layers)))
    with pinned(model.threads):
        reference = ReferenceKernel()
        for index, option in enumerate(options):
            plan = _plan_of([option] * times.shape[1])
            times[index] = _time_sublayers(model.engine(plan), batch, reference)
            report(index + 1, steps)
    few = batch.select(range(min(len(batch), _CALIBRATION_ROWS)))
    exact = model.engine(PrecisionPlan()).logits(few)
    harm = {}
    for index, (kind, precision) in enumerate(itertools.product(kinds, NARROW)):
        logits = model.engine(_one_kind(model.spec, kind, precision)).logits(few)
        harm[kind, precision] = float(np.square(logits - exact).mean()) / len(model.spec.layers)
        report(len(options) + index + 1, steps)
    return _first_inside(model, _row_of_plans(times, options, harm), loss, limit)


def fastest_uniform(model: EngineArguments, batch: Ragged) -> PrecisionPlan:
    """The fastest plan for passes of `batch` of those with one precision for every matrix."""
    plans = [PrecisionPlan.uniform(precision) for precision in PRECISIONS]
    with pinned(model.threads):
        reference = ReferenceKernel()
        times = [_time_sublayers(model.engine(plan), batch, reference).sum() for plan in plans]
    return plans[int(np.argmin(times))]


def _time_sublayers(engine: Engine, batch: Ragged, reference: ReferenceKernel) -> Float64Array:
    """Medians [2 * layers], in units of the reference kernel timed beside them."""
    before = time_calls(reference.run, 4).own_us
    parts = time_parts(engine, batch, _FORWARDS)
    unit = np.median(np.concatenate((before, time_calls(reference.run, 4).own_us)))
    return np.asarray(parts[1:] / unit)


def _row_of_plans(
    times: Float64Array, options: list[PrecisionOption], harm: Mapping[tuple[tuple[int, int], Precision], float]
) -> list[PrecisionPlan]:
    """Different plans, each less harmful than the one before; the last is float32."""
    harms = np.zeros_like(times)
    for index, option in enumerate(options):
        narrow = [(end, each) for end, each in enumerate((option.first, option.last)) if each in NARROW]
        for sub in (0, 1):
            harms[index, sub::2] = sum(harm[(sub, end), precision] for end, precision in narrow)
    scale = times.mean() / harms.mean() if harms.any() else 0.0  # of an encoder with nothing left, nothing is harmed
    plans: list[PrecisionPlan] = []
    for weight in _WEIGHTS_OF_LOSS:
        best = np.argmin(times + weight * scale * harms, axis=0)
        plan = _plan_of([options[index] for index in best])
        if plan not in plans:
            plans.append(plan)
    return [*(plan for plan in plans if plan != PrecisionPlan()), PrecisionPlan()]


def _plan_of(chosen: list[PrecisionOption]) -> PrecisionPlan:
    """The plan of one option for each sub-layer; the commonest matrix plan is the default."""
    places = []
    for sublayer, option in enumerate(chosen):
        for matrices, precision in zip(PAIRS[sublayer % 2], (option.first, option.last), strict=True):
            places += [(sublayer // 2, matrix, MatrixPlan(precision, option.sparse)) for matrix in matrices]
    plans = [plan for _, _, plan in places]
    default = max(plans, key=plans.count)
    return PrecisionPlan(default, tuple(place for place in places if place[2] != default))


def _one_kind(spec: ArchSpec, kind: tuple[int, int], precision: Precision) -> PrecisionPlan:
    sub, end = kind
    named = ((i, matrix) for i in range(len(spec.layers)) for matrix in PAIRS[sub][end])
    return PrecisionPlan(exceptions=tuple((*place, MatrixPlan(precision)) for place in named))


def _first_inside(model: EngineArguments, plans: list[PrecisionPlan], loss: Loss, limit: float) -> PrecisionPlan:
    """The first plan whose loss is inside, by bisection: the last one, float32, is taken to lose nothing."""
    losses: dict[int, float] = {}

    def is_inside(index: int) -> bool:
        losses[index] = loss(model.engine(plans[index]))
        return losses[index] <= limit

    first = bisect_left(range(len(plans) - 1), True, key=is_inside)
    return replace(plans[first], quality_loss=losses.get(first))
