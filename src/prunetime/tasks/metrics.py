"""Quality of scores against labels, with intervals from a bootstrap over groups. Higher is better where it says so."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prunetime.core.arrays import Array, Float64Array, Int64Array
from prunetime.core.estimate import Estimate
from prunetime.core.task import Answer, Task
from prunetime.errors import InputError
from prunetime.tasks import formulas
from prunetime.tasks.answers import exact_match
from prunetime.tasks.benchmarks import BENCHMARKS
from prunetime.tasks.formulas import Prepare, ResampledMetric

CELLS = 2**20
"""Weights held at once, in numbers: resamples are taken in parts of this size."""

LEAST_SHARE = 1e-6
"""A threshold is so far from 0 and 1, at least."""


@dataclass(frozen=True)
class MetricEstimate(Estimate):
    """A metric on `rows` examples, with the 95 % interval over resampled groups."""

    rows: int


@dataclass(frozen=True)
class OrderKept(Estimate):
    """The share of `pairs` of examples, of `groups` groups, that a model orders as another does, with the 95 % interval
    over resampled groups."""

    pairs: int
    groups: int

    def to_json(self, name: str = "value", interval: str = "ci95") -> dict[str, Any]:
        """Returns the estimate, with `pairs` and `groups`."""
        return super().to_json(name, interval) | {"pairs": self.pairs, "groups": self.groups}


@dataclass(frozen=True)
class Metric:
    """`tasks` are those it can judge: binary, multiclass, or another kind of `Task`. See `metric` for the names.

    Scores are what `Inputs.scores` gives: [examples] or [examples, classes], `Answer`s or `Tagged`; those of several
    labels moved by `Task.at_half`. Binary metrics read a graded label (float, 0..1) as good from 0.5 on. A metric
    `of_order` says how well the examples of each group are ordered.
    """

    name: str
    higher_is_better: bool
    tasks: tuple[str, ...]
    prepare: Prepare
    of_order: bool = False

    def value(self, scores: Array, labels: Array, groups: Array) -> float:
        """The metric of all examples; InputError where it is not defined."""
        inverse, count = _checked(scores, labels, groups)
        return self._plain_value(self.prepare(scores, labels, inverse), count)

    def check(self, task: Task) -> None:
        """Raises InputError when the metric says nothing about `task`."""
        if _situation(task) not in self.tasks:
            fitting = ", ".join(name for name, m in _METRICS.items() if _situation(task) in m.tasks)
            raise InputError(f"metric {self.name} does not fit a {_situation(task)} task; these do: {fitting}")

    def _plain_value(self, statistic: ResampledMetric, groups: int) -> float:
        value = float(statistic(np.ones((1, groups)))[0])
        if not np.isfinite(value):
            raise InputError(f"{self.name} is not defined on these rows: they need both good and bad labels")
        return value


def agreed_labels(task: Task, scores: Array) -> Array:
    """The labels [examples] that `AGREEMENT` compares scores with: the classes, or the numbers, that are a teacher's
    `scores`, as metrics read them; of several labels [examples, labels] those that a text has."""
    if task.traits.is_multi_label:
        return np.asarray(scores >= 0.5, np.float32)
    if task.traits.score != "softmax":
        return scores
    return np.asarray(scores > 0.5 if scores.ndim == 1 else scores.argmax(axis=1), np.int64)


def metric(name: str) -> Metric:
    """The metric called `name`: auc, pr_auc, accuracy, f1, mcc, spearman, rmse, mrr, exact, ndcg@K as in ndcg@10,
    defect_rate@COVERAGE as in defect_rate@0.5; of several labels f1_micro and f1_macro. Of answers, f1 is that of their
    words, of labelled words that of all spans."""
    if name in _METRICS and "@" not in name:
        return _METRICS[name]
    kind, _, parameter = name.partition("@")
    if kind == "ndcg" and re.fullmatch(r"[1-9][0-9]{0,5}", parameter):
        return _ndcg_at(int(parameter))
    if kind == "defect_rate" and re.fullmatch(r"[0-9]*\.?[0-9]+", parameter):
        if 0.0 < float(parameter) <= 1.0:
            return _defect_rate_at(parameter)
        raise InputError(f"metric {name}: coverage {parameter} must be above 0 and at most 1")
    raise InputError(f"unknown metric {name!r}; there are {', '.join(_METRICS)}")


def default_metric(task: Task, data: str = "") -> Metric:
    """The metric of the benchmark `data`; for other data ROC AUC for two classes, accuracy for more, micro F1 for
    several labels, F1 for answers and spans, Spearman for what is a number."""
    if data in BENCHMARKS:
        return metric(BENCHMARKS[data].metric)
    traits = task.traits
    return metric((len(task.labels) == 2 and traits.default_metric_of_two) or traits.default_metric)


def with_best_threshold(task: Task, scores: Array, labels: Array) -> Task:
    """The task with the threshold that gives the best micro F1 on these scores and labels [examples, labels]; a task
    without a threshold as it is."""
    if not task.traits.is_multi_label:
        return task
    return replace(task, threshold=min(max(formulas.best_threshold(scores, labels), LEAST_SHARE), 1.0 - LEAST_SHARE))


def evaluate(
    metric: Metric, scores: Array, labels: Array, groups: Array, *, resamples: int = 1000, seed: int = 0
) -> MetricEstimate:
    """`metric` of all examples and the 2.5 and 97.5 percentiles over `resamples` draws of as many groups as there are.

    Deterministic by `seed`. Raises InputError where the metric is not defined, and for examples of one group only.
    """
    inverse, count = _checked(scores, labels, groups)
    statistic = metric.prepare(scores, labels, inverse)
    value = metric._plain_value(statistic, count)
    draws = [statistic(counts) for counts in _draws(count, len(inverse), resamples, seed)]
    return _estimate(metric, value, draws, len(inverse))


def evaluate_difference(
    metric: Metric,
    scores: Array,
    other_scores: Array,
    labels: Array,
    groups: Array,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> MetricEstimate:
    """`metric` of `scores` less that of `other_scores` on the same examples, both on the same resamples."""
    inverse, count = _checked(scores, labels, groups)
    _checked(other_scores, labels, groups)
    one, other = (metric.prepare(s, labels, inverse) for s in (scores, other_scores))
    value = metric._plain_value(one, count) - metric._plain_value(other, count)
    draws = [one(counts) - other(counts) for counts in _draws(count, len(inverse), resamples, seed)]
    return _estimate(metric, value, draws, len(inverse))


def order_kept(
    scores: Array, reference: Array, groups: Array, *, resamples: int = 1000, seed: int = 0
) -> OrderKept | None:
    """How far `scores` order the examples of a group as `reference` does: 1 is the same order, 0.5 is none.

    A tie of `scores` counts half, and pairs that `reference` ties do not count: so it is (1 + Somers' D) / 2 over the
    pairs of all groups. None where fewer than two groups have pairs, so that there is no interval. Deterministic by
    `seed`.
    """
    inverse, _ = _checked(scores, reference, groups)
    kept, pairs = formulas.pairs_kept(scores, reference, inverse)
    kept, pairs = kept[pairs > 0], pairs[pairs > 0]
    if len(pairs) < 2:
        return None
    draws = [counts @ kept / (counts @ pairs) for counts in _draws(len(pairs), len(pairs), resamples, seed)]
    value, counted = kept.sum() / pairs.sum(), {"pairs": int(pairs.sum()), "groups": len(pairs)}
    return OrderKept.of_resamples(value, np.concatenate(draws), **counted)


def _situation(task: Task) -> str:
    if task.traits.score != "softmax":
        return task.kind
    return "binary" if len(task.labels) == 2 else "multiclass"


def _checked(scores: Array, labels: Array, groups: Array) -> tuple[Int64Array, int]:
    """Each example's group as an index, and the number of groups."""
    if not len(scores) == len(labels) == len(groups) or not len(labels):
        raise InputError(f"{len(scores)} scores, {len(labels)} labels, {len(groups)} groups: one of each per row")
    numbers = scores.reshape(len(scores), -1)
    if scores.dtype == object:
        surest = [s.score if isinstance(s, Answer) else max(s.probabilities, default=1.0) for s in scores]
        numbers = np.array(surest)[:, None]
    bad = np.flatnonzero(~np.isfinite(numbers).all(axis=1))
    if len(bad):
        raise InputError(f"the score of row {int(bad[0]) + 1} is not finite (of {len(bad)} rows)")
    unique, inverse = np.unique(groups, return_inverse=True)
    return inverse.astype(np.int64), len(unique)


def _draws(groups: int, rows: int, resamples: int, seed: int) -> Iterator[Float64Array]:
    """How often each group was drawn, [part of the resamples, groups]."""
    if groups < 2:
        raise InputError("all rows are of one group: an interval over groups needs two; choose another group column")
    rng = np.random.default_rng(seed)
    part = max(1, CELLS // max(rows, groups))
    for start in range(0, resamples, part):
        drawn = [rng.integers(0, groups, groups) for _ in range(min(part, resamples - start))]
        yield np.array([np.bincount(d, minlength=groups) for d in drawn], np.float64)


def _estimate(metric: Metric, value: float, draws: Sequence[Float64Array], rows: int) -> MetricEstimate:
    resamples = np.concatenate(draws)
    defined = resamples[np.isfinite(resamples)]
    if not len(defined):
        raise InputError(f"{metric.name} is not defined on any resample of these rows; give more groups")
    return MetricEstimate.of_resamples(value, defined, rows=rows)


_ANSWERS, _TAGS, _SIMILAR = "question-answering", "token-classification", "similarity"
_LABELS = "multi-label-classification"
_BINARY = ("binary", "relevance")
_CLASSES = ("binary", "multiclass", "relevance")
_NUMBERS = ("binary", "relevance", "regression")


def _ndcg_at(k: int) -> Metric:
    return Metric(f"ndcg@{k}", True, _BINARY, formulas.per_group(formulas.ndcg_at(k)), of_order=True)


def _defect_rate_at(coverage: str) -> Metric:
    return Metric(f"defect_rate@{coverage}", False, _BINARY, formulas.defect_rate_at(float(coverage)))


AGREEMENT = Metric("agreement", True, (*_CLASSES, _LABELS, "regression", _SIMILAR), formulas.agreement)
"""How far scores are a teacher's, of which `agreed_labels` makes labels: the share of equal classes (or labels of
a text), or Spearman's correlation of numbers. It judges where rows have no labels of their own."""

_METRICS = {
    m.name: m
    for m in (
        Metric("auc", True, (*_CLASSES, _LABELS, _SIMILAR), formulas.auc),
        Metric("pr_auc", True, _BINARY, formulas.pr_auc),
        Metric("accuracy", True, (*_CLASSES, _TAGS), formulas.any_accuracy),
        Metric("f1", True, (*_CLASSES, _ANSWERS, _TAGS), formulas.f1),
        Metric("f1_micro", True, (_LABELS,), formulas.of_labels(formulas.micro_f1)),
        Metric("f1_macro", True, (_LABELS,), formulas.of_labels(formulas.macro_f1)),
        Metric("exact", True, (_ANSWERS,), formulas.mean_of(exact_match)),
        Metric("mcc", True, _CLASSES, formulas.of_confusion(formulas.mcc)),
        Metric("spearman", True, (*_NUMBERS, _SIMILAR), formulas.rank_correlation),
        Metric("rmse", False, _NUMBERS, formulas.rmse),
        Metric("mrr", True, _BINARY, formulas.per_group(formulas.reciprocal_rank), of_order=True),
        _ndcg_at(10),
        _defect_rate_at("0.5"),
    )
}
