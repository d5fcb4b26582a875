"""What the page says beside the metric: the order that is kept, and the classes that are confused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_page import HOSTILE, Page, page_of

from prunetime.errors import InputError
from prunetime.report.render import render
from prunetime.tasks.confusion import Confusion

MakeRun = Callable[..., Path]


def drawn(classes: int, examples: int, right: float) -> Confusion:
    """A model that is right about this share of examples, and else takes a class for one of the next three."""
    rng = np.random.default_rng(classes)
    gold = rng.integers(0, classes, examples)
    said = np.where(rng.random(examples) < right, gold, (gold + rng.integers(1, 4, examples)) % classes)
    return Confusion.of([f"intent {number}" for number in range(classes)], np.eye(classes)[said], gold)


def page_with(run: Path, **found: Any) -> Page:
    path = run / "verify.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | found))
    return page_of(run)


def confusion(dense: Confusion, pruned: Confusion) -> dict[str, Any]:
    return {"confusion": {"labels": pruned.labels, "dense": dense.to_json(), "pruned": pruned.to_json()}}


def test_few_classes_are_shown_with_their_whole_matrix(make_run: MakeRun) -> None:
    dense, pruned = drawn(4, 400, 0.9), drawn(4, 400, 0.7)
    page = page_with(make_run(), **confusion(dense, pruned))
    rows = [
        f"{label} " + " ".join(f"{p} {d}" for p, d in zip(of_pruned, of_dense, strict=True))
        for label, of_pruned, of_dense in zip(pruned.labels, pruned.counts, dense.counts, strict=True)
    ]
    for row in rows:
        assert row in page.text
    assert "find" not in page.text.partition("Test examples by their label")[2].partition("Parameters")[0]


def test_many_classes_are_shown_by_the_worst_of_them(make_run: MakeRun) -> None:
    dense, pruned = drawn(150, 6_000, 0.9), drawn(150, 6_000, 0.8)
    page = page_with(make_run(), **confusion(dense, pruned))
    told = page.text.partition("The pairs of 150 classes")[2].partition("Parameters")[0]
    names = list(pruned.labels)
    for label, other, count in pruned.pairs(10):
        of_dense, support = (
            dense.counts[names.index(label), names.index(other)],
            pruned.counts[names.index(label)].sum(),
        )
        assert f"{label} {other} {count} {of_dense} {support}" in told
    classes = pruned.classes()
    for each in classes[:10]:
        assert f"{each.label} {each.f1:.3f}" in told
    assert len([row for row in page.all("th") if row.get("scope") == "row" and row.get("class") == "name"]) < 30
    assert (
        f"The other 140 classes with test examples have an F1 from {classes[10].f1:.3f} to {classes[-1].f1:.3f}" in told
    )


def test_a_model_without_a_fault_confuses_no_pairs(make_run: MakeRun) -> None:
    right = drawn(20, 400, 1.0)
    page = page_with(make_run(), **confusion(right, right))
    assert "confuses most often" not in page.text
    assert "The other 10 classes with test examples have an F1 from 1.000 to 1.000" in page.text


@pytest.mark.parametrize("weight", [1.0, None])
def test_the_loss_for_that_order_is_said(weight: float | None, make_run: MakeRun) -> None:
    run = make_run()
    found = {"with": 0.8125, "without": 0.75, "weight": weight}
    (run / "tune.json").write_text(json.dumps({"steps": 10, "rank_consistency": found}))
    text = page_of(run).text
    assert "0.8125 on valid examples, and 0.7500 without" in text
    assert ("it is tuned with it" if weight else "it is tuned without it") in text
    (run / "tune.json").write_text(json.dumps({"steps": 10}))
    assert "a loss for the order" not in page_of(run).text
    (run / "tune.json").write_text(json.dumps({"rank_consistency": {"with": 0.5}}))
    with pytest.raises(InputError, match=r"tune\.json"):
        render(run)


def test_the_order_kept_is_said(make_run: MakeRun) -> None:
    kept = {"value": 0.912, "ci95": [0.9, 0.924], "pairs": 12345, "groups": 678}
    page = page_with(make_run(), order_kept=kept)
    assert "Order kept: 91.2 % (90.0 % to 92.4 %). Of 12,345 pairs of examples of one group, in 678 groups" in page.text


def test_a_run_of_before_says_neither(make_run: MakeRun) -> None:
    text = page_of(make_run()).text
    assert "Order kept" not in text
    assert "Test examples by their label" not in text


@pytest.mark.parametrize("classes", [3, 14])
def test_hostile_names_of_classes_stay_text(make_run: MakeRun, classes: int) -> None:
    made = drawn(classes, 100, 0.5)
    page = page_with(make_run(), **confusion(made, Confusion((HOSTILE, *made.labels[1:]), made.counts)))
    assert not page.all("script")
    assert HOSTILE in page.text


@pytest.mark.parametrize(
    "found",
    [
        {"order_kept": {"value": "many", "ci95": [0, 1], "pairs": 1, "groups": 1}},
        {"order_kept": {"value": 0.5}},
        {"confusion": {"labels": ["a", "b"], "dense": [[0, 2, 1]], "pruned": []}},
        {"confusion": {"labels": ["a", "b"], "dense": []}},
    ],
)
def test_damaged_figures_are_refused(make_run: MakeRun, found: dict[str, Any]) -> None:
    run = make_run()
    path = run / "verify.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | found))
    with pytest.raises(InputError, match=r"verify\.json is damaged"):
        render(run)


def line_named(name: str, share: float) -> dict[str, Any]:
    latency = {"p50_us": 900.0, "p50_ci95_us": [890.0, 910.0], "p99_us": 950.0, "p99_ci95_us": [940.0, 960.0]}
    numbers = {"share": share, "quality": 0.9, "difference": 0.01}
    return {
        "name": name,
        "latency": latency | {"rounds": 4, "noisy": False},
        **{each: {"value": value, "ci95": [value - 0.001, value + 0.001]} for each, value in numbers.items()},
        "valid": 0.9,
        "inside": True,
    }


def test_what_other_libraries_do_is_said(make_run: MakeRun) -> None:
    run = make_run()
    of_before = {
        "lines": [line_named("pruned", 0.4), line_named("ONNX Runtime int8", 0.3)],
        "answer": "pruned",
        "why": "it is the best inside the budget on valid rows",
        "sentence": "at 40.0% of dense the answer, pruned, has auc 0.9000 on test rows (dense 0.9100)",
    }
    (run / "alternatives.json").write_text(json.dumps(of_before))
    text = page_of(run).text
    assert "ONNX Runtime int8" in text
    assert "int8 is better." not in text
    assert "was not measured" not in text
    file = "alternatives/onnxruntime-int8/model.onnx"
    more = {"better": {"ONNX Runtime int8": file}, "not_measured": {"OpenVINO int8": f"nncf {HOSTILE}"}}
    (run / "alternatives.json").write_text(json.dumps(of_before | more))
    text = page_of(run).text
    assert "ONNX Runtime int8 is better. It is inside the budget, and better than the answer beyond chance" in text
    assert f"{run / file}" in text
    assert f"OpenVINO int8 was not measured: nncf {HOSTILE}." in text
