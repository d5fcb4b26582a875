"""The page: whole, self-contained, true to the run folder, and safe with hostile names."""

import html
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from report_page import FILES, HOSTILE, page_of

from prunetime.cli import main
from prunetime.core.arch import Dims
from prunetime.core.budget import Budget
from prunetime.core.mask import BlockMask, Mask
from prunetime.core.precision import PrecisionPlan
from prunetime.errors import InputError
from prunetime.report.render import LayerDrawing, render

MakeRun = Callable[..., Path]

BUDGET = Budget(share=0.45, seq_len=48)


def test_page_needs_nothing_but_itself(make_run: MakeRun) -> None:
    page = page_of(make_run())
    for _, attributes in page.elements:
        assert not {"src", "srcset", "data", "action", "background", "poster"} & set(attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import|https?://", page.text)
    targets = {attributes["href"] for attributes in page.all("a")}
    assert targets
    assert targets <= {f"#{attributes.get('id')}" for _, attributes in page.elements}


def test_page_is_accessible(make_run: MakeRun) -> None:
    page = page_of(make_run())
    drawings = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(drawings) > 12
    assert all(a.get("role") == "img" or a.get("aria-hidden") == "true" for a in page.all("svg"))
    assert page.children("svg", "title") == len(drawings)
    assert page.children("table", "caption") == len(page.all("table")) > 3
    assert page.children("figure", "figcaption") == len(page.all("figure")) == 7
    assert page.all("html")[0]["lang"] == "en"


def test_page_holds_the_figures(make_run: MakeRun) -> None:
    run = make_run()
    verified, search = json.loads((run / "verify.json").read_text()), json.loads((run / "search.json").read_text())
    text = page_of(run).text
    measured = verified["verdict"]["measured"]
    assert f"Budget met: {100 * measured:.1f} % of dense" in text
    assert f"the limit of {100 * verified['verdict']['limit']:.1f} %" in text
    for model in ("dense", "pruned"):
        row = verified[model]
        assert f"{row['p50_us']:,.0f}" in text
        assert f"{row['value']:.4f}" in text
        assert f"{row['params']:,}" in text
        for setting in verified["latency"].values():
            for statistic in ("p50", "p99"):
                low, high = setting[model][f"{statistic}_ci95_us"]
                assert f"{setting[model][f'{statistic}_us']:,.0f}" in text
                assert f"{low:,.0f} to {high:,.0f}" in text
    assert f"{verified['dense']['p50_us'] / verified['pruned']['p50_us']:.2f}×" in text
    for name, part in verified["quality"].items():
        assert (name if name != "all" else "all test examples") in text
        assert f"{part['difference']['value']:+.4f}".replace("-", "−") in text
    assert f"{search['chosen']['predicted_us']:,.0f}" in text
    for layer in verified["spec"]:
        assert f"{layer['heads']} of 12 heads kept" in text
        assert f"{layer['ffn']} of 1536 FFN neurons kept" in text
    record = json.loads((run / "run.json").read_text())
    assert record["warnings"][0] in text
    assert f"{record['rows']['train']:,}" in text
    assert record["machine"]["cpu"] in text
    assert "torch 2.13.0+cpu" in text


def test_the_teacher_stands_beside_its_baselines(make_run: MakeRun) -> None:
    run = make_run()
    assert "TF-IDF" not in page_of(run).text  # a run of before
    record = {"metric": "auc", "rows": 1234, "teacher": {"value": 0.7331, "ci95": [0.7012, 0.7654]}, "baselines": {}}
    difference = {"value": -0.0449, "ci95": [-0.0602, -0.0301]}
    record["baselines"]["tfidf"] = {"value": 0.778, "ci95": [0.75, 0.8], "difference": difference}
    (run / "baselines.json").write_text(json.dumps(record))
    text = page_of(run).text
    for shown in (
        "1,234 validation examples",
        "0.7331",
        "TF-IDF and a linear model",
        "0.7780",
        "−0.0449",
        "−0.0602 to",
    ):
        assert shown in text
    (run / "baselines.json").write_text(json.dumps(record | {"rows": 0, "teacher": None, "baselines": {}}))
    assert "TF-IDF" not in page_of(run).text
    (run / "baselines.json").write_text(json.dumps(record | {"teacher": {"value": "high", "ci95": [0, 1]}}))
    with pytest.raises(InputError, match=r"baselines\.json is damaged"):
        render(run)


def test_the_microseconds_of_the_parts_add_up(make_run: MakeRun) -> None:
    run = make_run()
    found = json.loads((run / "verify.json").read_text())
    profile = json.loads((run / "profile.json").read_text())
    text = page_of(run).text
    said = re.search(r"this machine: ([\d,]+) µs for the dense model \(outlined\), ([\d,]+) µs for the pruned", text)
    assert said
    dense, pruned = (float(number.replace(",", "")) for number in said.groups())
    assert dense == pytest.approx(profile["measured_us"]["ids/hot/p50"][1], abs=1)
    assert pruned == pytest.approx(found["predicted_us"], abs=1)


def test_the_report_of_auto_is_that_of_the_run_it_kept(make_run: MakeRun, tmp_path: Path) -> None:
    kept = make_run().rename(tmp_path / "search")
    out = tmp_path / "auto"
    out.mkdir()
    kept.rename(out / "search")
    record = json.loads((out / "search" / "run.json").read_text())
    record["settings"]["method"] = "auto"
    (out / "run.json").write_text(json.dumps(record))
    unfinished = CliRunner().invoke(main, ["report", str(out)])
    assert (unfinished.exit_code, "cannot read result.json" in unfinished.stderr) == (2, True)
    (out / "result.json").write_text(json.dumps({"method": "search"}))
    ran = CliRunner().invoke(main, ["report", str(out), "--json"])
    assert ran.exit_code == 0, ran.stderr
    assert json.loads(ran.stdout) == {"report": str(out / "report.html")}
    assert (out / "report.html").read_bytes() == render(out / "search").read_bytes()


def test_hostile_names_stay_text(make_run: MakeRun) -> None:
    run = make_run(
        model=HOSTILE,
        data=HOSTILE,
        columns={"text": [HOSTILE, "title"], "label": HOSTILE, "group": HOSTILE},
        warnings=[HOSTILE],
        slices={"all": 2400, f"unseen:{HOSTILE}": 300},
    )
    page = page_of(run)
    assert not page.all("script")
    assert not page.all("img")
    assert page.text.count(HOSTILE) >= 7
    assert f"--model {shlex.quote(HOSTILE)}" in page.text


def test_layers_that_are_gone_and_no_slices(make_run: MakeRun) -> None:
    genome = (0, 0, 3, 0, 0, 5, 12, 48, 1, 1, 0, 0)
    text = page_of(make_run(genome=genome, slices={"all": 2400}, evaluations=40)).text
    assert text.count("attention is gone") == 3
    assert text.count("FFN is gone") == 3
    assert "0 of 12 heads kept" in text
    assert "1,536 of 1,536" in text
    assert "unseen:" not in text.split("Reproduce and use")[0]


TINY = Dims(layers=2, hidden=64, heads=2, head_dim=32, ffn=100, vocabulary=500, positions=64)
MINILM = Dims(layers=6, hidden=384, heads=12, head_dim=32, ffn=1536, vocabulary=30522, positions=512)


def test_blocks_and_dropped_tokens_are_in_the_words_of_a_layer() -> None:
    full = Mask.full(MINILM).layers[0]
    kept = {"value": BlockMask(32, 32, np.eye(12)), "ffn_output": BlockMask(32, 16, np.zeros((12, 96)))}
    drawn = LayerDrawing.of(replace(full, blocks=kept, tokens=0.25), MINILM)
    assert drawn.heads_text == "12 of 12, then 25% of the tokens; blocks: value 12 of 144 32x32"
    assert drawn.ffn_text == "1,536 of 1,536; blocks: ffn_output 0 of 1152 32x16"
    assert LayerDrawing.of(full, MINILM).heads_text == "12 of 12"


def test_every_layer_gone_and_nothing_pruned(make_run: MakeRun, tmp_path: Path) -> None:
    budget = Budget(share=1.0, seq_len=16)
    assert "0 of 2 heads kept" in page_of(make_run(dims=TINY, budget=budget, genome=(0, 0, 0, 0), evaluations=10)).text
    (tmp_path / "run").rename(tmp_path / "floor")
    text = page_of(make_run(dims=TINY, budget=budget, genome=(2, 4, 2, 4), evaluations=10)).text
    assert "100 of 100 FFN neurons kept" in text
    assert "2 2 100 100" in text


@pytest.mark.parametrize("scope", ["ids", "text"])
def test_absolute_budget(make_run: MakeRun, scope: str) -> None:
    budget = Budget(us=1900.0, seq_len=48, scope=scope, condition="idle", statistic="p99", threads=2)
    run = make_run(budget=budget, attempts=[1.08])
    page = page_of(run)
    verified = json.loads((run / "verify.json").read_text())
    assert f"Budget met: {verified['pruned']['p99_us']:,.0f} µs" in page.text
    assert "the limit of 1,900 µs" in page.text
    assert "could go further (below 1): 1.080" in page.text
    where = {"ids": "token ids", "text": "text"}[scope]
    assert f"{where} budget after a pause" in page.text


def test_a_missed_and_noisy_verdict_is_said(make_run: MakeRun) -> None:
    run = make_run()
    verified = json.loads((run / "verify.json").read_text())
    verified["verdict"] |= {"met": False, "noisy": True, "measured": 0.5, "ci95": [0.4, 0.6]}
    (run / "verify.json").write_text(json.dumps(verified))
    text = page_of(run).text
    assert "Budget not met: 50.0 % of dense, 11.1 % over the limit of 45.0 %" in text
    assert "Noisy machine." in text


@pytest.mark.parametrize(("metric", "better"), [("auc", "higher"), ("rmse", "lower")])
def test_a_metric_says_which_way_is_better(make_run: MakeRun, metric: str, better: str) -> None:
    run = make_run(evaluations=40)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"metric": metric, "higher_is_better": better == "higher"}))
    assert f"had read ({better} is better)" in page_of(run).text


def test_the_command_makes_the_same_settings(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunetime.cli import runs

    budget = Budget(us=1234567.5, seq_len=33, scope="text", statistic="p99", condition="idle", batch=4, threads=2)
    run = make_run(budget=budget, columns={"text": ["a b", "c'd"]}, dims=TINY, genome=(1, 1) * 2, evaluations=3)
    text = page_of(run).text
    command = text.split("Make this model again ")[1].split(" With the same profile")[0]
    received = []
    monkeypatch.setattr(runs, "_prune", lambda settings, out, *_, **__: received.append((settings.to_json(), out)))
    done = CliRunner().invoke(main, shlex.split(command)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert received == [(json.loads((run / "run.json").read_text())["settings"], run)]


@pytest.mark.parametrize(
    ("budget", "amounts"),
    [
        (BUDGET, ["36.0 %", "41.0 %", "45.0 %", "50.0 %", "56.0 %"]),
        (Budget(share=0.955, seq_len=48), ["76.0 %", "86.0 %", "95.5 %"]),
        (Budget(us=1900.0, seq_len=48), ["1,500 µs", "1,700 µs", "1,900 µs", "2,100 µs", "2,400 µs"]),
    ],
)
def test_what_other_budgets_would_have_bought_is_said(make_run: MakeRun, budget: Budget, amounts: list[str]) -> None:
    folder = make_run(budget=budget)
    content = render(folder).read_text(encoding="utf-8")
    section = content[content.index('id="others"') :].partition("</section>")[0]
    rows = re.findall(r'<th scope="row">([^<]+)</th><td[^>]*>([^<]+)</td>', section)
    assert [row[0] for row in rows] == amounts
    scores = [float(row[1]) for row in rows if row[1] != "\u2013"]
    assert scores == sorted(scores)
    taken = [Budget.parse(amount) for amount in re.findall(r"prunetime pick \S+ --latency (\S+) --out", section)]
    assert [f"{100 * b.share:.1f} %" if b.share else f"{b.us:,.0f} µs" for b in taken] == [
        amount for amount in amounts if amount not in ("45.0 %", "95.5 %", "1,900 µs")
    ]


@pytest.mark.parametrize(
    ("metric", "interval", "said"),
    [
        ("auc", (0.001, 0.009), True),
        ("auc", (-0.001, 0.009), False),
        ("auc", (-0.009, -0.001), False),
        ("rmse", (-0.009, -0.001), True),
        ("rmse", (0.001, 0.009), False),
    ],
)
def test_why_a_pruned_model_is_better_is_said_only_where_it_is(
    make_run: MakeRun, metric: str, interval: tuple[float, float], said: bool
) -> None:
    run = make_run(evaluations=40)
    record, verified = (json.loads((run / name).read_text()) for name in ("run.json", "verify.json"))
    (run / "run.json").write_text(json.dumps(record | {"metric": metric, "higher_is_better": metric == "auc"}))
    verified["quality"]["all"]["difference"] |= {"value": sum(interval) / 2, "ci95": interval}
    (run / "verify.json").write_text(json.dumps(verified))
    assert ("Why the pruned model is better" in page_of(run).text) == said


@pytest.mark.parametrize("loss", [None, 0.0012, -0.003])
def test_where_nothing_was_pruned_that_is_said(make_run: MakeRun, loss: float | None) -> None:
    run = make_run(evaluations=40)
    plan = replace(PrecisionPlan.uniform("int8"), quality_loss=loss)
    found = {"plan": plan.to_json(), "met": True}
    for met in (False, True):
        (run / "lossless.json").write_text(json.dumps(found | {"met": met}))
        text = page_of(run).text
        assert ("Nothing was pruned" in text) == met
    lost = {None: "", 0.0012: " and loses 0.0012 of auc", -0.003: " and loses 0.0000 of auc"}[loss]
    assert f"In int8 the dense model is inside the budget{lost}" in text
    assert "what one would take instead was neither made nor measured. “Dense” and “pruned” on this page are" in text


def test_how_long_each_stage_took_is_said_where_its_record_has_it(make_run: MakeRun) -> None:
    run = make_run(evaluations=20)
    records: dict[str, dict[str, object]] = {
        "plan": {},
        "search": {"title": "Search <structures>", "seconds": 61.5},
        "tail": {"title": "Tune the chosen one", "seconds": 1234.0},
        "trust-0": {"title": "Tune structure 1", "seconds": 9999.0},
    }
    (run / "stages").mkdir()
    for name, record in records.items():
        (run / "stages" / f"{name}.json").write_text(json.dumps({"inputs": "0", "outputs": []} | record))
    text = page_of(run).text
    assert "the longest first; 1,295.5 s in all" in text
    assert "Seconds Tune the chosen one 1,234.0 Search <structures> 61.5 Score a" in text
    (run / "stages" / "plan.json").write_text(json.dumps({"title": "Plan", "seconds": None}))
    with pytest.raises(InputError, match=r"stages/plan\.json is damaged"):
        render(run)


def test_rendering_again_gives_the_same_page_and_leaves_nothing_else(make_run: MakeRun) -> None:
    run = make_run(evaluations=20)
    first = render(run).read_bytes()
    assert render(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir()) == sorted([*FILES, "policy.json", "report.html"])


def test_a_cell_says_the_name_of_its_column(make_run: MakeRun) -> None:
    """On a phone the cells of a row stand below each other, without the head of the table."""
    content = render(make_run(evaluations=20)).read_text(encoding="utf-8")
    tables = re.findall(r"<table>.*?</table>", content, re.DOTALL)
    for table in tables:
        if "Layer</th>" in table:  # it stays a table
            continue
        names = [html.unescape(name) for name in re.findall(r'<th scope="col"[^>]*>([^<]*)', table)]
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)[1:]:
            cells = re.findall(r'<td[^>]* data-column="([^"]*)"', row)
            assert [html.unescape(name) for name in cells] == names[1:]
            assert len(cells) == row.count("<td")
    assert len(tables) == 7
