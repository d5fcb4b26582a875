import warnings

import numpy as np
import pytest
from counted_calls import calls_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from prunetime.core.task import Task
from prunetime.errors import InputError
from prunetime.tasks import formulas
from prunetime.tasks.metrics import default_metric, evaluate, evaluate_difference, metric, order_kept

BINARY = ("auc", "pr_auc", "accuracy", "f1", "mcc", "spearman", "rmse", "mrr", "ndcg@3", "ndcg@10", "defect_rate@0.4")


def made(rows: int, groups: int, seed: int, *, steps: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (of only `steps` different values, so that they tie), labels that they know something of, and groups."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, rows)
    scores = 1 / (1 + np.exp(-(labels - 0.5 + rng.normal(size=rows))))
    if steps:
        scores = np.round(scores * steps) / steps
    return scores.astype(np.float32), labels, rng.integers(0, groups, rows)


REFERENCES = {
    "auc": lambda s, y: reference.roc_auc_score(y, s),
    "pr_auc": lambda s, y: reference.average_precision_score(y, s),
    "accuracy": lambda s, y: reference.accuracy_score(y, s > 0.5),
    "f1": lambda s, y: reference.f1_score(y, s > 0.5, zero_division=0),
    "mcc": lambda s, y: reference.matthews_corrcoef(y, s > 0.5),
    "spearman": lambda s, y: stats.spearmanr(s, y).statistic,
    "rmse": lambda s, y: reference.root_mean_squared_error(y, s.astype(np.float64)),
}


@pytest.mark.parametrize("name", REFERENCES)
@given(rows=st.integers(10, 80), seed=st.integers(0, 10**6), steps=st.sampled_from([0, 3, 10]))
@settings(max_examples=40, deadline=None)
def test_binary_metrics_equal_sklearn_and_scipy(name, rows, seed, steps):
    scores, labels, groups = made(rows, 5, seed, steps=steps)
    labels[:2] = 0, 1
    scores[:2] = 0.3, 0.2
    assert metric(name).value(scores, labels, groups) == pytest.approx(REFERENCES[name](scores, labels), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auc", lambda s, y: reference.roc_auc_score(y, s, multi_class="ovr", average="macro")),
        ("accuracy", lambda s, y: reference.accuracy_score(y, s.argmax(axis=1))),
        ("f1", lambda s, y: reference.f1_score(y, s.argmax(axis=1), average="macro", zero_division=0)),
        ("mcc", lambda s, y: reference.matthews_corrcoef(y, s.argmax(axis=1))),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_multiclass_metrics_equal_sklearn(name, expected, seed):
    rng = np.random.default_rng(seed)
    labels = np.r_[np.arange(4), rng.integers(0, 4, 96)]
    scores = rng.dirichlet(np.ones(4), 100)
    scores[np.arange(100), labels] += 0.3
    scores = scores / scores.sum(axis=1, keepdims=True)
    assert metric(name).value(scores, labels, np.arange(100)) == pytest.approx(expected(scores, labels), abs=1e-9)


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("graded", [False, True])
def test_ndcg_equals_sklearn_with_ties(k, graded):
    rng = np.random.default_rng(k)
    scores, labels, _ = made(200, 1, k, steps=6)
    groups = np.arange(200) % 20
    if graded:
        labels = rng.choice([0.0, 0.25, 0.5, 1.0], 200).astype(np.float32)
    expected = [
        reference.ndcg_score([labels[groups == g]], [scores[groups == g]], k=k)
        for g in np.unique(groups)
        if labels[groups == g].any()
    ]
    assert metric(f"ndcg@{k}").value(scores, labels, groups) == pytest.approx(np.mean(expected))


def test_mrr_counts_ties_against_the_model_and_leaves_out_groups_without_a_good_row():
    scores = np.array([0.9, 0.8, 0.8, 0.5, 0.4, 0.7, 0.1])
    labels = np.array([0, 0, 1, 1, 0, 1, 0])
    groups = np.array([1, 1, 1, 2, 2, 3, 4])
    assert metric("mrr").value(scores, labels, groups) == pytest.approx((1 / 3 + 1 + 1) / 3)


def test_defect_rate_is_the_share_of_bad_rows_among_the_top_rows():
    scores = np.linspace(1, 0, 10)
    labels = np.array([1, 1, 0, 1, 0, 0, 1, 0, 0, 0])
    rate = metric("defect_rate@0.5")
    assert rate.value(scores, labels, np.arange(10)) == pytest.approx(2 / 5)
    assert metric("defect_rate@1").value(scores, labels, np.arange(10)) == pytest.approx(6 / 10)
    assert rate.value(np.zeros(10), labels, np.arange(10)) == pytest.approx(6 / 10), "ties are shown in proportion"
    assert not rate.higher_is_better


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("steps", [0, 5])
def test_bootstrap_equals_a_naive_loop_over_groups(name, steps):
    scores, labels, groups = made(120, 15, seed=3, steps=steps)
    chosen = metric(name)
    unique = np.unique(groups)
    rng = np.random.default_rng(7)
    values = []
    for _ in range(200):
        drawn = unique[rng.integers(0, len(unique), len(unique))]
        rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
        copies = np.concatenate([np.full((groups == g).sum(), i) for i, g in enumerate(drawn)])
        values.append(chosen.value(scores[rows], labels[rows], copies))
    got = evaluate(chosen, scores, labels, groups, resamples=200, seed=7)
    assert got.ci95 == pytest.approx(tuple(np.percentile(values, (2.5, 97.5))), abs=1e-9)
    assert got.value == pytest.approx(chosen.value(scores, labels, groups))
    assert got.rows == 120


def test_difference_is_paired():
    scores, labels, groups = made(2000, 200, seed=1)
    noisy = scores + np.random.default_rng(2).normal(0, 0.02, 2000).astype(np.float32)
    auc = metric("auc")
    difference = evaluate_difference(auc, scores, noisy, labels, groups)
    one, other = evaluate(auc, scores, labels, groups), evaluate(auc, noisy, labels, groups)
    assert difference.value == pytest.approx(one.value - other.value)
    width = difference.ci95[1] - difference.ci95[0]
    assert width < (one.ci95[1] - one.ci95[0]) / 3, "resamples that are not the same ones would give a wide interval"
    assert evaluate_difference(auc, scores, scores, labels, groups).ci95 == (0.0, 0.0)


def test_intervals_are_deterministic_and_depend_on_the_groups():
    scores, labels, _ = made(1000, 1, seed=5)
    auc = metric("auc")
    rows = np.arange(1000)
    assert evaluate(auc, scores, labels, rows) == evaluate(auc, scores, labels, rows)
    assert evaluate(auc, scores, labels, rows, seed=1) != evaluate(auc, scores, labels, rows)
    copied = [np.tile(x, 10) for x in (scores, labels, rows)]
    single, tenfold = evaluate(auc, scores, labels, rows), evaluate(auc, *copied)
    assert tenfold.ci95 == pytest.approx(single.ci95), "ten copies of a row in its group say nothing new"


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    truth = stats.norm.cdf(1 / np.sqrt(2))  # AUC of two unit normals one apart
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 300)
        low, high = evaluate(metric("auc"), rng.normal(labels), labels, np.arange(300), resamples=200).ci95
        inside += low <= truth <= high
    assert 180 <= inside <= 198


@pytest.mark.parametrize("name", BINARY)
def test_resampling_is_not_done_row_by_row_or_group_by_group(name):
    groups, resamples = 300, 1000
    data = made(1500, groups, seed=0)
    assert calls_of(lambda: evaluate(metric(name), *data, resamples=resamples)) < groups * resamples / 4


@pytest.mark.parametrize("name", ["auc", "pr_auc", "mrr", "ndcg@5"])
def test_one_class_is_an_error(name):
    with pytest.raises(InputError, match="both good and bad"):
        evaluate(metric(name), np.array([0.1, 0.2]), np.array([0, 0]), np.arange(2))


def test_bad_values_are_errors():
    auc, labels = metric("auc"), np.array([0, 1, 1])
    with pytest.raises(InputError, match="score of row 2 is not finite"):
        evaluate(auc, np.array([0.1, np.nan, 0.3]), labels, np.arange(3))
    with pytest.raises(InputError, match="2 scores, 3 labels"):
        evaluate(auc, np.array([0.1, 0.3]), labels, np.arange(3))
    with pytest.raises(InputError, match="one group"):
        evaluate(auc, np.array([0.1, 0.2, 0.3]), labels, np.zeros(3))
    with pytest.raises(InputError, match=r"0\.\.1"):
        evaluate(auc, np.array([0.1, 0.2, 0.3]), np.array([0.0, 2.5, 5.0]), np.arange(3))


@pytest.mark.parametrize("name", ["area", "ndcg@0", "ndcg", "defect_rate@", "auc@5", "ndcg@-1", ""])
def test_an_unknown_metric_names_those_there_are(name):
    with pytest.raises(InputError, match="auc, pr_auc, accuracy"):
        metric(name)


@pytest.mark.parametrize("name", ["defect_rate@0", "defect_rate@1.5"])
def test_coverage_outside_its_range_is_an_error(name):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        metric(name)


def test_metrics_fit_tasks():
    binary = Task("classification", ("0", "1"), ("a", "b"), 32)
    classes = Task("classification", ("x", "y", "z"), ("a",), 32)
    relevance, regression = Task("relevance", (), ("a",), 32), Task("regression", (), ("a",), 32)
    assert [default_metric(t).name for t in (binary, classes, relevance, regression)] == [
        *("auc", "accuracy", "spearman", "spearman")
    ]
    for task in (binary, classes, relevance, regression):
        default_metric(task).check(task)
    metric("ndcg@5").check(relevance)
    with pytest.raises(InputError, match="does not fit a multiclass task; these do: auc, accuracy, f1, mcc"):
        metric("ndcg@5").check(classes)
    with pytest.raises(InputError, match="regression task; these do: spearman, rmse"):
        metric("auc").check(regression)


@given(rows=st.integers(2, 60), groups=st.integers(1, 6), steps=st.sampled_from([0, 3]), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_order_kept_is_somers_d_over_the_pairs_of_all_groups(rows, groups, steps, seed):
    scores, _, of_group = made(rows, groups, seed, steps=steps)
    dense = made(rows, groups, seed + 1, steps=steps)[0]
    kept = pairs = 0.0
    for group in np.unique(of_group):
        rank, reference_rank = scores[of_group == group], dense[of_group == group]
        counted = np.sum(reference_rank[:, None] > reference_rank[None, :])
        if counted:
            tied = len(np.unique(rank)) == 1  # where scipy gives NaN
            with warnings.catch_warnings(action="ignore"):  # of the p-value
                statistic = 0.0 if tied else stats.somersd(reference_rank, rank).statistic
            kept += (1 + statistic) / 2 * counted
            pairs += counted
    found = order_kept(scores, dense, of_group)
    several = sum(len(np.unique(dense[of_group == group])) > 1 for group in np.unique(of_group))
    if several < 2:
        assert found is None
        return
    assert (found.value, found.pairs, found.groups) == (pytest.approx(kept / pairs), pairs, several)
    assert found.low <= found.value <= found.high


def test_order_kept_of_itself_is_all_and_of_its_reverse_none():
    scores, _, groups = made(200, 20, 0)
    assert order_kept(scores, scores, groups).ci95 == (1.0, 1.0)
    assert order_kept(-scores, scores, groups).ci95 == (0.0, 0.0)
    assert order_kept(np.zeros(200), scores, groups).ci95 == (0.5, 0.5)
    assert order_kept(scores, np.zeros(200), groups) is None  # nothing is in an order that could be kept


def test_the_interval_of_order_kept_holds_the_truth():
    """Of many draws of 40 groups, about 95 % of the intervals hold the share of all groups."""
    rng = np.random.default_rng(0)
    dense = rng.random((4_000, 6))
    scores = dense + rng.normal(size=dense.shape) * rng.uniform(0.05, 0.6, (4_000, 1))
    groups = np.repeat(np.arange(4_000), 6)
    truth = order_kept(scores.ravel(), dense.ravel(), groups, resamples=2).value
    holds = []
    for draw in range(100):
        chosen = slice(40 * draw, 40 * (draw + 1))
        found = order_kept(scores[chosen].ravel(), dense[chosen].ravel(), np.repeat(np.arange(40), 6), resamples=300)
        holds.append(found.low <= truth <= found.high)
    assert np.mean(holds) > 0.88


def test_order_kept_of_one_large_group_is_counted_in_parts(monkeypatch):
    scores, _, groups = made(300, 2, 0, steps=10)
    dense = made(300, 2, 1)[0]
    whole = order_kept(scores, dense, groups)
    monkeypatch.setattr(formulas, "PAIRS_AT_ONCE", 1_000)
    assert order_kept(scores, dense, groups) == whole
