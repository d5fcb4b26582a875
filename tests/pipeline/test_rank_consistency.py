"""A run whose metric is one of order tunes with the rank-consistency loss and without, and goes on with the better."""

import json
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from quiet import TIMING, Quiet, count_time
from tiny import FEW_ROWS

from prunetime.core import artifact
from prunetime.core.budget import Budget
from prunetime.core.effort import RunPlan
from prunetime.inference.engine import Engine
from prunetime.models.encoder import weights_of
from prunetime.pipeline import source, student
from prunetime.pipeline.context import Context
from prunetime.pipeline.prune import prune
from prunetime.pipeline.run import Run
from prunetime.pipeline.source import load_source
from prunetime.pipeline.stages.structures import structures, tune_alternative
from prunetime.pipeline.stages.tune import ORDER_WEIGHT, TUNED, order_weight, tune
from prunetime.pipeline.student import kept_of, taught
from prunetime.settings import Settings

FEW = {"teacher_rows": 300, "tune_rows": 200, "importance_rows": 64, "evaluations": 10, "tune_learning_rate": 1e-3}
PLAN = RunPlan(**FEW_ROWS | FEW | {"score_rows": 64, "finalists": 2, "looks": 2})


def settings_of(inputs: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {"metric": "ndcg@10", "group": "query", "effort": PLAN, "timing": TIMING} | more
    budget = Budget(share=0.7, seq_len=24)
    return Settings(
        str(inputs / "bert"), str(inputs / "ads.tsv"), budget, text=("query", "title"), label="label",
        precision="fp32", **given,
    )  # fmt: skip


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The trainings that are begun, by the names of their folders."""
    trainings, fit = dict[str, Any](), student.fit_on_every_rank

    def note(model: Any, data: Any, settings: Any, work: Path, *more: Any, **others: Any) -> Any:
        trainings[work.name] = SimpleNamespace(model=model, data=data, order=settings.distillation.order)
        return fit(model, data, settings, work, *more, **others)

    monkeypatch.setattr(student, "fit_on_every_rank", note)
    return trainings


@pytest.fixture(scope="module")
def out(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranking") / "run"
    with pytest.MonkeyPatch.context() as patch:
        count_time(patch)
        prune(settings_of(inputs), out, Quiet())
    return out


def tune_again(context: Context) -> None:
    tune.work(context, lambda *_: None, begin=partial(kept_of, context.elastic))


def test_the_candidate_is_the_better_on_valid_rows(inputs: Path, out: Path) -> None:
    context = Context(Run(out, Quiet()), settings_of(inputs))
    before = json.loads((out / TUNED).read_text())
    tune_again(context)
    assert json.loads((out / TUNED).read_text()) == before
    found = before["rank_consistency"]
    assert found["with"] != found["without"]
    assert found["weight"] == (ORDER_WEIGHT if found["with"] > found["without"] else None)
    value = context.metric_on_valid(Engine.of(artifact.read(out / "candidate")))
    assert value == pytest.approx(max(found["with"], found["without"]))


@pytest.mark.parametrize("helps", [True, False])
def test_all_are_tuned_as_the_pruned_model(
    helps: bool, inputs: Path, out: Path, noted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the metric says."""
    run = Run(out, reporter := Quiet())
    context = Context(run, settings_of(inputs))

    def value_of(*_: Any) -> Callable[[Any], float]:
        return lambda model: 0.75 if (model is noted["tune-rank"].model) == helps else 0.5

    monkeypatch.setattr(import_module(tune.work.__module__), "metric_on_valid", value_of)
    tune_again(context)
    tune_alternative.work(context, lambda *_: None, folder="uniform", structure=structures(context)["uniform"])
    plain, ordered = noted["tune"], noted["tune-rank"]
    assert (plain.order, ordered.order) == (None, ORDER_WEIGHT)
    assert plain.data.groups is None
    train = context.source.roles.train
    sizes = dict(zip(*np.unique(train.groups, return_counts=True), strict=True))
    for group, count in zip(*np.unique(ordered.data.groups, return_counts=True), strict=True):
        assert count == sizes[group]
    assert len(ordered.data) <= len(plain.data) == PLAN.tune_rows
    candidate, chosen = artifact.read(out / "candidate"), ordered if helps else plain
    for name, array in weights_of(chosen.model).items():
        np.testing.assert_array_equal(candidate.weights[name], array)
    assert order_weight(context) == noted["uniform"].order == (ORDER_WEIGHT if helps else None)
    found, sentence = ("0.7500", "0.5000", "on") if helps else ("0.5000", "0.7500", "off"), reporter.said[-1]
    expected = "ndcg@10 on valid rows: {} tuned with the rank-consistency loss, {} without: it is {}"
    assert sentence == expected.format(*found)


def test_the_logits_for_a_model_beside_are_of_its_rows(inputs: Path, out: Path) -> None:
    context = Context(Run(out, Quiet()), settings_of(inputs))
    found = taught(context, context.source, by_group=True)
    expected = Engine.of(context.teacher).logits(found.tokens)
    np.testing.assert_allclose(found.teacher_logits, expected, rtol=1e-5, atol=1e-5)
    assert found.groups is not None


@pytest.mark.parametrize(
    ("given", "ordered"), [({}, True), ({"metric": "mrr", "group": None}, True), ({"metric": "auc"}, False)]
)
def test_it_is_tried_where_the_metric_is_of_order(given: Any, ordered: bool, inputs: Path) -> None:
    assert load_source(settings_of(inputs, **given), lambda _: None).orders_groups == ordered


def test_it_is_not_tried_with_few_groups_of_several_rows(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_source(settings_of(inputs), lambda _: None)
    several = int((np.unique(found.roles.train.groups, return_counts=True)[1] > 1).sum())
    monkeypatch.setattr(source, "LEAST_GROUPS", several + 1)
    assert not found.orders_groups
