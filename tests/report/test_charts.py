"""What is drawn on the page: of masks, of the search, and of the latencies that were measured."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from report_page import page_of

from prunetime.core.budget import Budget
from prunetime.errors import InputError
from prunetime.report.render import render

MakeRun = Callable[..., Path]
BUDGET = Budget(share=0.45, seq_len=48)


def test_a_square_is_filled_exactly_for_each_kept_head(make_run: MakeRun) -> None:
    run = make_run()
    content = render(run).read_text()
    expected = [
        f"head {head}: {'kept' if head in layer['heads']['kept'] else 'removed'}"
        for layer in json.loads((run / "mask.json").read_text())
        for head in range(layer["heads"]["of"])
    ]
    assert re.findall(r"head \d+: (?:kept|removed)", content) == expected


@pytest.mark.parametrize("budget", [BUDGET, Budget(us=1900.0, seq_len=48)])
def test_the_budget_is_one_number_in_every_chart(make_run: MakeRun, budget: Budget) -> None:
    content = render(make_run(budget=budget, evaluations=40)).read_text(encoding="utf-8")
    named = re.findall(r">(budget [\d][^<]*)<", content)
    assert len(named) == 6  # latency, search and prediction, each for the page and for a phone
    assert set(named) == {"budget 45.0 %" if budget.share else "budget 1,900 µs"}


def test_what_the_policy_prefers_is_drawn_and_a_run_without_a_policy_has_no_such_chart(make_run: MakeRun) -> None:
    run = make_run(evaluations=20)
    page = render(run).read_text()
    assert page.count("What the policy prefers to change") == 2  # for the page and for a phone
    assert "in the end most often changed: layer 1 heads" in page
    assert "generation 40, layer 1 heads: fewer 77.9%, more 1.0%" in page
    (run / "policy.json").unlink()
    assert "policy prefers" not in render(run).read_text()


def test_measured_points_of_the_front_are_drawn_and_what_predictions_were_off_is_said(make_run: MakeRun) -> None:
    run = make_run()
    points = json.loads((run / "front.json").read_text())["points"]
    assert len(points) == 6
    page = page_of(run)
    drawn = [attributes for attributes in page.all("polygon") if attributes.get("class") == "timed"]
    assert len(drawn) == 2 * len(points) + 1  # for the page and for a phone, and in the legend
    assert "On the 6 points that were timed, predictions are off by 3.5 % in the median and 6.4 % at worst" in page.text
    for point, off in zip(points, ("−1.0", "+2.0", "−2.9", "+4.2", "−4.8", "+6.4"), strict=True):
        assert f"{point['predicted_us']:,.0f} {point['measured_us']:,.0f}" in page.text
        assert f"{off} %" in page.text
        assert (
            f"predicted {point['predicted_us']:,.0f} µs, measured {point['measured_us']:,.0f} µs"
            in render(run).read_text()
        )
    chosen = json.loads((run / "search.json").read_text())["chosen"]["genome"]
    assert [point["genome"] for point in points].count(chosen) == 1
    assert "noisy" not in page.text.split("On the 6 points")[1].split("Finalists")[0]
    front = json.loads((run / "front.json").read_text())
    front["dense"]["noisy"] = True
    (run / "front.json").write_text(json.dumps(front))
    assert "6.4 % at worst. The machine was noisy then" in page_of(run).text
    (run / "front.json").write_text(json.dumps(front | {"points": []}))
    with pytest.raises(InputError, match=r"front\.json is damaged"):
        render(run)


def test_a_run_that_learned_masks_has_links_and_charts_of_its_own(make_run: MakeRun) -> None:
    run = make_run(evaluations=20)
    record = json.loads((run / "run.json").read_text())
    record["settings"]["method"] = "multilevel"
    (run / "run.json").write_text(json.dumps(record))
    names, target_us = ["0 heads", "0 ffn"], json.loads((run / "search.json").read_text())["target_us"]
    level = {"of": "blocks", "target_us": target_us, "masks": names, "ratios": [[1.0, 1.0], [0.5, 0.25]]}
    (run / "learned-ratios.json").write_text(json.dumps(level))
    page = page_of(run)
    assert "until the latency was predicted at 97.0 % of the budget" in page.text
    assert page.children("figure", "figcaption") == len(page.all("figure")) == 5
    targets = {attributes["href"] for attributes in page.all("a")}
    assert targets <= {f"#{attributes.get('id')}" for _, attributes in page.elements}
    assert "The search aimed" not in page.text
