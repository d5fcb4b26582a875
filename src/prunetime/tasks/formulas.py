"""Formulas of metrics, each written once, as a function of how often each group is counted: all ones is the plain
value, a draw of the bootstrap is a resample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prunetime.core.arrays import Array, BoolArray, Float64Array, Int64Array
from prunetime.core.estimate import Ranking, divided, spearman
from prunetime.core.task import Answer, Tagged
from prunetime.errors import InputError
from prunetime.tasks.answers import f1 as f1_of_answer
from prunetime.tasks.tags import span_counts, word_counts

ResampledMetric = Callable[[Float64Array], Float64Array]
"""From how often each group is counted, [resamples, groups], to the metric of each resample, [resamples]; NaN where
the metric is not defined (one class only)."""

Prepare = Callable[[Array, Array, Int64Array], ResampledMetric]
"""From scores, labels and each example's group as an index 0..groups-1."""


def _good(labels: Array) -> BoolArray:
    """Says of each example (of several labels, of each) whether it is good: class 1, or graded at least 0.5."""
    if labels.min() < 0 or labels.max() > 1:
        raise InputError(f"a metric of good and bad rows got the label {labels.max()}; labels must lie in 0..1")
    return np.asarray(labels >= 0.5)


class _Ranked(Ranking):
    def __init__(self, scores: Array, inverse: Int64Array, *, descending: bool) -> None:
        super().__init__(scores, descending=descending)
        self.inverse = inverse[self.order]

    def weights(self, counts: Float64Array) -> Float64Array:
        """How often each example is counted, in ranked order, [resamples, examples]."""
        return counts[:, self.inverse]


def auc(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
    if scores.ndim == 1:
        return _binary_auc(scores, _good(labels), inverse)
    good = _good(labels) if labels.ndim == 2 else labels[:, None] == np.arange(scores.shape[1])
    classes = [_binary_auc(scores[:, c], good[:, c], inverse) for c in range(scores.shape[1])]
    return lambda counts: _mean_of_defined(np.array([one(counts) for one in classes]))


def _binary_auc(scores: Array, good: BoolArray, inverse: Int64Array) -> ResampledMetric:
    """Mann-Whitney: the share of (good, bad) pairs in order, ties as half."""
    ranked = _Ranked(scores, inverse, descending=False)
    good = good[ranked.order]

    def statistic(counts: Float64Array) -> Float64Array:
        weights = ranked.weights(counts)
        positive, all_examples = ranked.steps(weights * good), ranked.steps(weights)
        negative = all_examples - positive
        below = np.cumsum(negative, axis=1) - negative / 2
        return divided((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))

    return statistic


def pr_auc(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
    """Average precision: precision at each step of recall, without interpolation."""
    ranked = _Ranked(scores, inverse, descending=True)
    good = _good(labels)[ranked.order]

    def statistic(counts: Float64Array) -> Float64Array:
        weights = ranked.weights(counts)
        positive = ranked.steps(weights * good)
        shown = np.cumsum(ranked.steps(weights), axis=1)
        precision = np.cumsum(positive, axis=1) / np.maximum(shown, 1)
        return divided((positive * precision).sum(axis=1), positive.sum(axis=1))

    return statistic


def _confusion(scores: Array, labels: Array, inverse: Int64Array, groups: int) -> tuple[Float64Array, int]:
    """Rows of each (label, predicted class) in each group, [groups, classes * classes], and the number of classes."""
    if scores.ndim == 1:
        label, predicted, classes = _good(labels).astype(np.int64), (scores > 0.5).astype(np.int64), 2
    else:
        label, predicted, classes = labels, scores.argmax(axis=1), scores.shape[1]
    cells = classes * classes
    flat = np.bincount(inverse * cells + label * classes + predicted, minlength=groups * cells)
    return flat.reshape(groups, cells).astype(np.float64), classes


def of_confusion(formula: Callable[[Float64Array], Float64Array]) -> Prepare:
    """A metric of the confusion matrices [resamples, classes (label), classes (predicted)]."""

    def prepare(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
        by_group, classes = _confusion(scores, labels, inverse, int(inverse.max()) + 1)
        return lambda counts: formula((counts @ by_group).reshape(-1, classes, classes))

    return prepare


def _accuracy(confusion: Float64Array) -> Float64Array:
    return np.asarray(np.trace(confusion, axis1=1, axis2=2) / confusion.sum(axis=(1, 2)))


def f1(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
    if scores.dtype != object:
        return of_confusion(_class_f1)(scores, labels, inverse)
    prepare = mean_of(f1_of_answer) if isinstance(scores[0], Answer) else _of_counts(span_counts, _span_f1)
    return prepare(scores, labels, inverse)


def any_accuracy(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
    words = _of_counts(word_counts, lambda counts: divided(counts[:, 0], counts[:, 1]))
    return (words if scores.dtype == object else of_confusion(_accuracy))(scores, labels, inverse)


def agreement(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
    """The share of equal classes, or of equal labels of a text, or Spearman's correlation of numbers."""
    if labels.ndim == 2:
        return _mean(((scores >= 0.5) == (labels >= 0.5)).mean(axis=1), inverse)
    prepare = rank_correlation if labels.dtype.kind == "f" else any_accuracy
    return prepare(scores, labels, inverse)


def _of_counts(
    of_example: Callable[[Tagged, Sequence[str]], tuple[int, ...]], formula: Callable[[Float64Array], Float64Array]
) -> Prepare:
    """A metric of sums [resamples, counts] over examples."""

    def prepare(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
        examples = np.array([of_example(tagged, gold) for tagged, gold in zip(scores, labels, strict=True)], np.float64)
        by_group = np.stack([np.bincount(inverse, weights=column) for column in examples.T], axis=1)
        return lambda counts: formula(counts @ by_group)

    return prepare


def _span_f1(counts: Float64Array) -> Float64Array:
    """F1 from counts of right, predicted and gold spans (CoNLL-2003); 0 where there are none."""
    right, said, there = counts.T
    return np.nan_to_num(divided(2 * right, said + there))


def _class_f1(confusion: Float64Array) -> Float64Array:
    """F1 of class 1 of two classes; of more, the mean over classes that occur."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    by_class = divided(2 * hits, confusion.sum(axis=1) + confusion.sum(axis=2))
    return np.asarray(np.nan_to_num(by_class[:, 1])) if by_class.shape[1] == 2 else _mean_of_defined(by_class.T)


def of_labels(formula: Callable[[Float64Array], Float64Array]) -> Prepare:
    """A metric of how often each of several labels is rightly given, given (scored 0.5 or more), and there: of counts
    [3, resamples, labels]."""

    def prepare(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
        given, there = scores >= 0.5, _good(labels)
        by_group = np.zeros((3, int(inverse.max()) + 1, labels.shape[1]))
        for part, of_examples in zip(by_group, (given & there, given, there), strict=True):
            np.add.at(part, inverse, of_examples)
        return lambda counts: formula(counts @ by_group)

    return prepare


def micro_f1(counts: Float64Array) -> Float64Array:
    """F1 of all pairs of an example and a label."""
    right, given, there = counts.sum(axis=2)
    return divided(2 * right, given + there)


def macro_f1(counts: Float64Array) -> Float64Array:
    """The mean of the labels' F1; one that is neither given nor there is left out, as scikit-learn does with
    `zero_division=nan`."""
    right, given, there = counts
    return _mean_of_defined(divided(2 * right, given + there).T)


def best_threshold(scores: Array, labels: Array) -> float:
    """The threshold from which on scores [examples, labels] give the best micro F1, midway to the next score below."""
    order = np.argsort(-scores, axis=None, kind="stable")
    ranked, there = scores.astype(np.float64).ravel()[order], _good(labels).ravel()[order]
    last = np.flatnonzero(np.diff(ranked, append=-1.0))  # of those with an equal score
    given = last + 1
    best = int(np.argmax(2 * np.cumsum(there)[last] / (given + there.sum())))
    below = ranked[last[best] + 1] if best + 1 < len(last) else 0.0
    return float((ranked[last[best]] + below) / 2)


def mcc(confusion: Float64Array) -> Float64Array:
    """Matthews correlation in Gorodkin's form for any number of classes; 0 where a margin is empty."""
    total = confusion.sum(axis=(1, 2))
    true, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    covariance = np.trace(confusion, axis1=1, axis2=2) * total - (true * predicted).sum(axis=1)
    spread = (total**2 - (true**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    return np.nan_to_num(divided(covariance, np.sqrt(spread)))


def rank_correlation(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
    one, other = Ranking(scores), Ranking(labels)
    return lambda counts: spearman(one, other, counts[:, inverse])


def rmse(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
    mean_square = _mean((scores.astype(np.float64) - labels) ** 2, inverse)
    return lambda counts: np.sqrt(mean_square(counts))


def mean_of(of_answer: Callable[[Answer, Sequence[Answer]], float]) -> Prepare:
    """The mean over questions of a value of the answer and the gold ones."""

    def prepare(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
        return _mean([of_answer(answer, gold) for answer, gold in zip(scores, labels, strict=True)], inverse)

    return prepare


def _mean(values: Array | Sequence[float], inverse: Int64Array) -> ResampledMetric:
    totals, examples = np.bincount(inverse, weights=values), np.bincount(inverse).astype(np.float64)
    return lambda counts: np.asarray((counts @ totals) / (counts @ examples))


def per_group(of_group: Callable[[Float64Array, Float64Array], float]) -> Prepare:
    """The mean over groups of a value of their examples' scores and labels; NaN leaves a group out."""

    def prepare(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
        _good(labels)
        order = np.argsort(inverse, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)
        pairs = ((scores[examples].astype(np.float64), labels[examples].astype(np.float64)) for examples in parts)
        values = np.array([of_group(*pair) for pair in pairs])
        defined = np.isfinite(values).astype(np.float64)
        return lambda counts: divided(counts @ np.nan_to_num(values), counts @ defined)

    return prepare


def ndcg_at(k: int) -> Callable[[Float64Array, Float64Array], float]:
    """nDCG of a group: the discounted gain of the first `k`, as a share of the best order's."""

    def gain(scores: Float64Array, labels: Float64Array) -> float:
        """Discounted gain of the first k, where examples of equal score share their places' discounts."""
        discounts = np.where(np.arange(len(scores)) < k, 1 / np.log2(np.arange(len(scores)) + 2), 0.0)
        _, place, size = np.unique(-scores, return_inverse=True, return_counts=True)
        shared = np.add.reduceat(discounts, np.r_[0, np.cumsum(size)[:-1]]) / size
        return float((labels * shared[place]).sum())

    def ndcg(scores: Float64Array, labels: Float64Array) -> float:
        best = gain(labels, labels)
        return gain(scores, labels) / best if best else float("nan")

    return ndcg


def reciprocal_rank(scores: Float64Array, labels: Float64Array) -> float:
    """1 / place of the first good example, behind the bad ones of equal score."""
    good = labels >= 0.5
    if not good.any():
        return float("nan")
    return 1.0 / (1 + int((scores[~good] >= scores[good].max()).sum()))


PAIRS_AT_ONCE = 2**24
"""Pairs of examples that are compared at once."""


def pairs_kept(scores: Array, reference: Array, inverse: Int64Array) -> tuple[Float64Array, Float64Array]:
    """Counts, of each group, the pairs of examples that `scores` order as `reference` does, and the pairs that
    `reference` orders, both [groups]. A tie of `scores` is half in order; a tie of `reference` is no pair."""
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1)
    kept, pairs = np.array([_pairs_kept(scores[examples], reference[examples]) for examples in parts]).T
    return kept, pairs


def _pairs_kept(scores: Array, reference: Array) -> tuple[float, float]:
    kept = pairs = 0.0
    step = max(1, PAIRS_AT_ONCE // len(scores))
    for start in range(0, len(scores), step):
        part = slice(start, start + step)
        ahead = reference[part, None] > reference[None, :]
        pairs += np.count_nonzero(ahead)
        kept += np.count_nonzero(ahead & (scores[part, None] > scores[None, :]))
        kept += np.count_nonzero(ahead & (scores[part, None] == scores[None, :])) / 2
    return kept, pairs


def defect_rate_at(coverage: float) -> Prepare:
    """The share of bad examples among the `coverage` of examples that score highest."""

    def prepare(scores: Array, labels: Array, inverse: Int64Array) -> ResampledMetric:
        ranked = _Ranked(scores, inverse, descending=True)
        bad = ~_good(labels)[ranked.order]

        def statistic(counts: Float64Array) -> Float64Array:
            weights = ranked.weights(counts)
            step, bad_step = ranked.steps(weights), ranked.steps(weights * bad)
            before = np.cumsum(step, axis=1) - step
            room = coverage * weights.sum(axis=1, keepdims=True)
            # of examples that tie at the cut, the share that fits is shown
            shown = np.clip(room - before, 0, step) / np.maximum(step, 1)
            return divided((bad_step * shown).sum(axis=1), room[:, 0])

        return statistic

    return prepare


def _mean_of_defined(values: Float64Array) -> Float64Array:
    """Means over the first axis without NaN."""
    defined = np.isfinite(values)
    return divided(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))
