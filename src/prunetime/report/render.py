"""The report of a run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from prunetime.core.arch import ATTENTION_MATRICES, FFN_MATRICES, ArchSpec, Dims
from prunetime.core.artifact import write_text
from prunetime.core.mask import LayerMask
from prunetime.latency.measure import Latency
from prunetime.pruning.methods import LEARNED
from prunetime.report import charts
from prunetime.report.charts import Line, Part, SearchPlot
from prunetime.report.findings import Findings, kept_run, read
from prunetime.report.structures import Evaluated, Search
from prunetime.report.svg import tag
from prunetime.report.values import Interval
from prunetime.search.space import Space
from prunetime.settings import Settings

PAGE = "report.html"

WIDE, HALF, PHONE = 1000.0, 460.0, 318.0
"""Widths in pixels for which charts are drawn: the page, half of it, and a phone."""


def render(run: Path) -> Path:
    """Writes `run/report.html` from the files of the run folder, whole or not at all, and returns its path.

    The page of a run of `--method auto` is that of the run that it kept.
    Raises InputError naming the file where one is missing or damaged, or the page cannot be written.
    """
    page = html(read(kept_run(run)))
    write_text(run / PAGE, page)
    return run / PAGE


def html(found: Findings) -> str:
    """The page as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "us": us,
        "quality": quality,
        "signed": signed,
        "tau": tau,
        "percent": percent,
        "signed_percent": signed_percent,
    }
    folder = files("prunetime.report")
    template = environment.from_string((folder / "template.html.j2").read_text(encoding="utf-8"))
    style = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return template.render(_context(found) | {"style": style})


def us(value: float) -> str:
    """Microseconds, with as many digits as they can be trusted to."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def quality(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


def signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def tau(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def signed_percent(value: float) -> str:
    return f"{100 * value:+.1f} %".replace("-", "−")


@dataclass(frozen=True)
class Ranked:
    """A row of the table of structures: `first` is the score while searching, `again` on the finalists' rows, and
    `by_layer` what is kept, by column."""

    name: str
    found: Evaluated
    first: float
    again: float | None
    by_layer: dict[str, list[str]]


@dataclass(frozen=True)
class Other:
    """What another `budget` (microseconds or a share) would have bought: the best structure that was scored within it,
    or None, and the command that makes a model of it; none for the budget of the run."""

    budget: float
    best: Evaluated | None
    command: str


@dataclass(frozen=True)
class LayerDrawing:
    """Both sub-layers of one layer, drawn and in words."""

    heads_chart: Markup
    heads_text: str
    rows_chart: Markup
    rows_text: str

    @classmethod
    def of(cls, mask: LayerMask, dims: Dims) -> LayerDrawing:
        spec = mask.spec()
        heads = f"{spec.heads} of {dims.heads}" if spec.has_attention else "attention is gone"
        rows = f"{spec.ffn:,} of {dims.ffn:,}" if spec.has_ffn else "FFN is gone"
        if spec.has_attention and spec.attention_rows < dims.hidden:
            heads += f", {spec.attention_rows} of {dims.hidden} output rows"
        if spec.has_ffn and spec.ffn_rows < dims.hidden:
            rows += f", {spec.ffn_rows} of {dims.hidden} output rows"
        if spec.tokens < 1.0:
            heads += f", then {spec.tokens:.0%} of the tokens"
        heads, rows = (
            f"{part}; blocks: {kept}" if (kept := spec.describe_blocks(dims, matrices)) else part
            for part, matrices in ((heads, ATTENTION_MATRICES), (rows, FFN_MATRICES))
        )
        return cls(charts.heads(mask), heads, charts.rows(mask), rows)


def _context(found: Findings) -> dict[str, Any]:
    """What the template reads."""
    verified, record, dims = found.verified, found.record, found.record.space.dims
    statistic = verified.budget.statistic
    dense, pruned = (interval_of(latency, statistic) for latency in (verified.judged.dense, verified.judged.pruned))
    parts, verdict = _parts(found), verified.verdict
    specs = {"dense": ArchSpec.full(dims), "pruned": verified.spec}
    artifact = str(found.folder / "artifact")
    return {
        "found": found,
        "record": record,
        "verified": verified,
        "verdict": verdict,
        "interval_of": interval_of,
        "improved": _improved(verified.quality[0].difference, record.higher_is_better),
        "predicted_budget_us": verified.budget.resolve(found.profile.floor_and_dense(verified.budget)[1]),
        "us": us,
        "quality": quality,
        "signed": signed,
        "tau": tau,
        "model_name": "/".join(Path(record.settings["model"]).parts[-2:]).lstrip("/"),
        "amount": partial(_amount, verdict.share),
        "spare": 1.0 - verdict.measured.value / verdict.limit,
        "dense": dense,
        "pruned": pruned,
        "speed_up": dense.value / pruned.value,
        "overall": verified.quality[0],
        "weights": {name: spec.weights(dims) for name, spec in specs.items()},
        "settings": sorted(verified.settings, key=lambda setting: not verified.is_judged(setting)),
        "layers": [LayerDrawing.of(mask, dims) for mask in found.mask.layers],
        "dense_predicted_us": sum(part.dense_us for part in parts),
        "pruned_predicted_us": sum(part.pruned_us for part in parts),
        "latency_chart": _sized(_latency_chart(found, dense, pruned), WIDE),
        "quality_chart": _sized(_quality_chart(found), WIDE),
        "parts_chart": _sized(partial(charts.microseconds, parts), HALF),
        "policy_chart": _sized(partial(charts.preferences, found.policy, found.record.space.names), WIDE)
        if found.policy
        else "",
        "prediction_chart": _sized(_prediction_chart(found), HALF),
        "verified_over_predicted": verdict.measured.value / _predicted(found),
        "overs": ", ".join(f"{over:.3f}" for over in found.overs),
        "effort": _effort(record.settings["effort"]),
        "command": Settings.from_json(record.settings).command(str(found.folder)),
        "score_command": _score_command(found),
        "trust_command": shlex.join(["prunetime", "trust", str(found.folder)]),
        "profile_path": shlex.quote(str(found.folder / "profile.json")),
        "artifact_path": repr(artifact),
        **(_of_search(found, found.search) if found.search else _of_learning(found)),
        "example": repr(("a text", "another text") if record.task.pair else "a text"),
    }


def _effort(effort: dict[str, Any]) -> str:
    """The name of an effort and what it stands for."""
    details = (f"{name.replace('_', ' ')} {value:,}" for name, value in effort.items() if name != "name")
    return f"{effort['name']}: {', '.join(details)}"


def _improved(difference: Interval, higher_is_better: bool) -> bool:
    """Whether all of the interval says that the pruned model is better."""
    return difference.low > 0 if higher_is_better else difference.high < 0


def interval_of(latency: Latency, statistic: str) -> Interval:
    value, (low, high) = latency.of(statistic)
    return Interval(value, low, high)


def _amount(share: bool, value: float) -> str:
    """A limit or a measurement in the budget's own unit: a share of dense, or microseconds."""
    return percent(value) if share else f"{us(value)} µs"


def _predicted(found: Findings) -> float:
    """The prediction for the chosen structure in the budget's own unit: microseconds, or a share of dense."""
    _, dense_us = found.profile.floor_and_dense(found.verified.budget)
    return found.verified.predicted_us / (dense_us if found.verified.verdict.share else 1.0)


def _sized(draw: Callable[[float], Markup], width: float) -> Markup:
    """A chart twice, for the page and for a phone; the style shows one of them."""
    return Markup("").join(
        (tag("div", draw(width), class_="chart wide"), tag("div", draw(PHONE), class_="chart phone"))
    )


def _budget_name(found: Findings) -> str:
    """The budget as every chart calls it."""
    return f"budget {_amount(found.verified.verdict.share, found.verified.verdict.limit)}"


def _latency_chart(found: Findings, dense: Interval, pruned: Interval) -> Callable[[float], Markup]:
    statistic = found.verified.budget.statistic
    models = {"dense": dense, "pruned": pruned}
    lines = [Line(name, latency, f"{us(latency.value)} µs", name) for name, latency in models.items()]
    limits = {_budget_name(found): found.verified.budget_us}
    title = f"Latency ({statistic}) against the budget"
    return partial(charts.intervals, title, lines, f"{statistic}, µs", limits, from_zero=True)


def _quality_chart(found: Findings) -> Callable[[float], Markup]:
    lines = []
    for part in found.verified.quality:
        name = "all test rows" if part.name == "all" else part.name
        lines.append(Line(name, part.difference, signed(part.difference.value), "pruned"))
    axis = f"{found.record.metric}, pruned minus dense"
    return partial(charts.intervals, "What pruning changed", lines, axis, {"no change": 0.0})


def _prediction_chart(found: Findings) -> Callable[[float], Markup]:
    verdict, predicted = found.verified.verdict, _predicted(found)
    scale, axis = (100.0, "% of dense") if verdict.share else (1.0, "µs")
    measured = {"before tuning": found.gate.measured, "finished": verdict.measured}
    lines = []
    for name, it in ({"predicted": Interval(predicted, predicted, predicted)} | measured).items():
        shown = Interval(scale * it.value, scale * it.low, scale * it.high)
        lines.append(Line(name, shown, _amount(verdict.share, it.value), "pruned" if name in measured else "other"))
    limits = {_budget_name(found): scale * verdict.limit}
    return partial(charts.intervals, "Predicted against measured latency", lines, axis, limits)


def _parts(found: Findings) -> list[Part]:
    """Predicted microseconds of every sub-layer, dense and pruned."""
    budget, dims = found.verified.budget, found.record.space.dims
    dense, pruned = (found.profile.parts(spec, budget) for spec in (ArchSpec.full(dims), found.verified.spec))
    names = ["embed, head", *(f"{index} {label}" for index in range(dims.layers) for label in ("attention", "FFN"))]
    return [Part(name, dense.get(slot, 0.0), pruned.get(slot, 0.0)) for slot, name in enumerate(names)]


def _of_search(found: Findings, search: Search) -> dict[str, Any]:
    """What the template reads of a search."""
    plot = _search_plot(found, search)
    return {
        "ranked": _ranked(found, search),
        "search_chart": _sized(partial(charts.search_points, plot), WIDE),
        "progress_chart": _sized(partial(charts.best_so_far, plot), HALF),
        "legend": charts.search_legend(plot),
        "others": _others(found, plot),
        "aim": plot.target_us / plot.budget_us - 1.0,
    }


def _of_learning(found: Findings) -> dict[str, Any]:
    """What the template reads of learned masks."""
    charts_of = ((_sized(partial(charts.keep_ratios, level), WIDE), level) for level in found.learned)
    return {"learned": LEARNED[found.record.settings["method"]], "learned_charts": list(charts_of)}


def _search_plot(found: Findings, search: Search) -> SearchPlot:
    scored = {one.spec: one for one in found.evaluated}
    budget = found.verified.budget
    _, dense_us = found.profile.floor_and_dense(budget)
    return SearchPlot(
        points=found.evaluated,
        front=sorted((scored[c] for c in search.front if c in scored), key=lambda one: one.predicted_us),
        finalists=[scored[one.spec] for one in search.finalists if one.spec in scored],
        timed=found.front.points if found.front else (),
        chosen=scored[search.chosen.spec],
        budget=_budget_name(found),
        budget_us=budget.resolve(dense_us),
        target_us=search.target_us,
    )


def _others(found: Findings, plot: SearchPlot) -> list[Other]:
    """What budgets around that of the run would have bought; its own is among them."""
    budget = found.verified.budget
    amount = budget.share or plot.budget_us

    def within(other: float) -> Other:
        target_us = other / amount * plot.target_us
        inside = [one for one in plot.points if one.predicted_us <= target_us]
        latency = (replace(budget, share=other) if budget.share else replace(budget, us=other)).amount
        words = ["prunetime", "pick", str(found.folder), "--latency", latency, "--out"]
        words.append(f"{found.folder}-{latency.rstrip('%')}")
        best = max(inside, key=lambda one: one.score, default=None)
        return Other(other, best, shlex.join(words) if other != amount else "")

    amounts = [amount if times == 1.0 else float(f"{times * amount:.2g}") for times in (0.8, 0.9, 1.0, 1.1, 1.25)]
    return [within(other) for other in amounts if not budget.share or other <= 1.0]


def _ranked(found: Findings, search: Search) -> list[Ranked]:
    """The finalists, best first, and the best of each kind of baseline."""
    first = {one.spec: one.score for one in found.evaluated}
    again = {one.spec: one.score for one in search.finalists}
    named = [("chosen" if one.spec == search.chosen.spec else "finalist", one) for one in search.finalists]
    named += [(f"best {kind}", one) for kind, one in search.baselines.items() if one]
    return [
        Ranked(name, one, first.get(one.spec, one.score), again.get(one.spec), _by_layer(one.spec, found.record.space))
        for name, one in named
    ]


def _by_layer(spec: ArchSpec, space: Space) -> dict[str, list[str]]:
    """What a structure of `space` keeps in each layer."""
    kept = {"Heads": [f"{layer.heads}" for layer in spec.layers], "FFN rows": [f"{layer.ffn}" for layer in spec.layers]}
    if space.tokens:
        kept["Tokens"] = [f"{layer.tokens:.0%}" for layer in spec.layers]
    if space.blocks:
        whole = [max(1, replace(layer, blocks=()).weights(space.dims)) for layer in spec.layers]
        weights = [layer.weights(space.dims) for layer in spec.layers]
        kept["Weights in blocks"] = [f"{left / of:.0%}" for left, of in zip(weights, whole, strict=True)]
    return kept


def _score_command(found: Findings) -> str:
    words = ["prunetime", "score", str(found.folder / "artifact"), "--text", "a text"]
    if found.record.task.pair:
        words += ["--pair", "another text"]
    return shlex.join(words)
