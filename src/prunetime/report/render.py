"""The report of a run: one HTML page that needs nothing but itself."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from prunetime.core.arch import ATTENTION_MATRICES, FFN_MATRICES, ArchSpec, Dims
from prunetime.core.artifact import write_text
from prunetime.core.estimate import Estimate
from prunetime.core.mask import LayerMask, Mask
from prunetime.pruning.methods import LEARNED
from prunetime.report import charts
from prunetime.report.alternatives_record import Alternatives
from prunetime.report.charts import IntervalRow, SearchPlot, SublayerLatency, TradeoffPlot, TradeoffPoint
from prunetime.report.run_record import RunRecord, kept_run, read
from prunetime.report.search_record import SearchResult, TimedFront
from prunetime.report.svg import tag
from prunetime.search.space import Space
from prunetime.tasks.confusion import FEW_CLASSES, ClassQuality, Confusion

PAGE = "report.html"

WIDE, HALF, PHONE = 1000.0, 460.0, 318.0
"""Widths in pixels for which charts are drawn: the page, half of it, and a phone."""

STRIPES = 48
"""Parts of an FFN for each of which the page says how much of it is kept."""

MOST_ROWS = 10
"""Rows of a table of classes, where there are many."""

OTHER_BUDGETS = (0.8, 0.9, 1.0, 1.1, 1.25)
"""Shares of the run's budget for which the page says what a search has found."""


def render(folder: Path) -> Path:
    """Writes `report.html` into a run's folder, whole or not at all, from the folder's other files.

    The page of a run of `--method auto` is that of the method that it kept.

    Returns:
        The path of the page.

    Raises:
        InputError: A file is missing or damaged, or the page cannot be written; the message names the file.
    """
    context = _context(read(kept_run(folder)))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FORMATS | {"quoted": shlex.quote, "repr": repr}
    ours = files("prunetime.report")
    template = environment.from_string((ours / "template.html.j2").read_text(encoding="utf-8"))
    style = Markup((ours / "style.css").read_text(encoding="utf-8"))
    write_text(folder / PAGE, template.render(context | FORMATS | {"style": style}))
    return folder / PAGE


def us(value: float) -> str:
    """Formats microseconds with as many digits as they can be trusted to."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _formatter(pattern: str) -> Callable[[float], str]:
    return lambda value: pattern.format(value).replace("-", "−").replace("%", " %")


percent, signed = _formatter("{:.1%}"), _formatter("{:+.4f}")

FORMATS = {
    "us": us,
    "percent": percent,
    "signed_percent": _formatter("{:+.1%}"),
    "quality": _formatter("{:.4f}"),
    "signed": signed,
    "tau": _formatter("{:.2f}"),
}
"""How the template shows numbers."""


@dataclass(frozen=True)
class LayerDrawing:
    """Both sub-layers of one layer, as data of a drawing and in words.

    `heads` says of each head whether it is kept, `ffn` how many neurons of the FFN are, and `stripes` which share of
    each of its parts.
    """

    heads: list[bool]
    heads_text: str
    ffn: int
    stripes: list[float]
    ffn_text: str

    @classmethod
    def of(cls, mask: LayerMask, dims: Dims) -> LayerDrawing:
        spec = mask.spec()
        kept_heads, kept_ffn = mask.heads & spec.has_attention, mask.ffn & spec.has_ffn
        heads = f"{spec.heads} of {dims.heads}" if spec.has_attention else "attention is gone"
        ffn = f"{spec.ffn:,} of {dims.ffn:,}" if spec.has_ffn else "FFN is gone"
        if spec.has_attention and spec.attention_rows < dims.hidden:
            heads += f", {spec.attention_rows} of {dims.hidden} output rows"
        if spec.has_ffn and spec.ffn_rows < dims.hidden:
            ffn += f", {spec.ffn_rows} of {dims.hidden} output rows"
        if spec.tokens < 1.0:
            heads += f", then {spec.tokens:.0%} of the tokens"
        heads, ffn = (
            f"{part}; blocks: {kept}" if (kept := spec.describe_blocks(dims, matrices)) else part
            for part, matrices in ((heads, ATTENTION_MATRICES), (ffn, FFN_MATRICES))
        )
        stripes = [float(part.mean()) for part in np.array_split(kept_ffn, min(STRIPES, dims.ffn))]
        return cls(kept_heads.tolist(), heads, int(kept_ffn.sum()), stripes, ffn)


@dataclass(frozen=True)
class ClassTables:
    """Which classes are confused: the `matrix` of few classes, or of many the `pairs` most often confused, the `worst`
    classes of the pruned model, and the F1 of the `others`.

    `matrix` has, for each class, its name and of each predicted class the examples of the pruned and the dense model;
    `pairs` a class, the predicted one, the examples of both models, and those that have the class; `worst` a class of
    the pruned model and its F1 in the dense one.
    """

    labels: tuple[str, ...]
    matrix: list[tuple[str, list[tuple[int, int]]]]
    pairs: list[tuple[str, str, int, int, int]]
    worst: list[tuple[ClassQuality, float]]
    others: list[float]

    @classmethod
    def of(cls, confusion: Mapping[str, Confusion]) -> ClassTables:
        dense, pruned = confusion["dense"], confusion["pruned"]
        if len(pruned.labels) <= FEW_CLASSES:
            both = np.stack([pruned.counts, dense.counts], axis=-1).tolist()
            cells = [[(of_pruned, of_dense) for of_pruned, of_dense in row] for row in both]
            return cls(pruned.labels, list(zip(pruned.labels, cells, strict=True)), [], [], [])
        at = {label: index for index, label in enumerate(pruned.labels)}
        support = pruned.counts.sum(axis=1).tolist()
        pairs = [
            (label, other, count, int(dense.counts[at[label], at[other]]), support[at[label]])
            for label, other, count in pruned.pairs(MOST_ROWS)
        ]
        dense_f1, classes = {each.label: each.f1 for each in dense.classes()}, pruned.classes()
        worst = [(each, dense_f1[each.label]) for each in classes[:MOST_ROWS]]
        return cls(pruned.labels, [], pairs, worst, [each.f1 for each in classes[MOST_ROWS:]])


def _context(run: RunRecord) -> dict[str, Any]:
    """Returns the variables of the template."""
    verification, metadata, dims = run.verification, run.metadata, run.metadata.space.dims
    budget, difference = verification.budget, verification.quality[0].difference
    judged = next(filter(verification.is_judged, verification.latency))
    dense, pruned = (latency.of(budget.statistic) for latency in (judged.dense, judged.pruned))
    specs = {"dense": ArchSpec.full(dims), "pruned": verification.spec}
    return {
        "run": run,
        "model_name": "/".join(Path(metadata.settings.model).parts[-2:]).lstrip("/"),
        "amount": partial(_amount, run),
        "tradeoff_chart": run.alternatives and _sized(partial(charts.tradeoff, _tradeoff(run, run.alternatives)), WIDE),
        "dense": dense,
        "pruned": pruned,
        "improved": difference.low > 0 if metadata.higher_is_better else difference.high < 0,
        "weights": {"dense": specs["dense"].weights(dims), "pruned": specs["pruned"].weights(run.dims)},
        "latency": sorted(verification.latency, key=lambda both: not verification.is_judged(both)),
        "predicted_budget_us": budget.resolve(_predicted_dense_us(run)),
        "latency_chart": _sized(_latency_chart(run, dense, pruned), WIDE),
        "quality_chart": _sized(_quality_chart(run), WIDE),
        **(_of_structure(run, run.mask) if run.mask else {}),
        "effort": run.plan.amounts,
        "command": metadata.settings.command(str(run.folder)),
        "sections": _sections(run),
        "classes": ClassTables.of(verification.confusion) if verification.confusion else None,
        **(_of_search(run, run.search, run.front) if run.search and run.front else _of_learning(run)),
    }


def _sections(run: RunRecord) -> list[str]:
    found = "Search" if run.search else "Learned" if run.learned else None
    names = ("Latency", "Quality", run.alternatives and "Instead", run.mask and "Structure", found, "Data", "Reproduce")
    return [name for name in names if name]


def _amount(run: RunRecord, value: float) -> str:
    """Formats a latency in the budget's own unit: a share of dense, or microseconds."""
    return percent(value) if run.verification.verdict.share else f"{us(value)} µs"


def _predicted_dense_us(run: RunRecord) -> float:
    """Returns the latency of the dense model that a budget in % is of; before 0.2 that of the profile."""
    return run.verification.predicted_dense_us or run.profile.floor_and_dense(run.verification.budget)[1]


def _predicted(run: RunRecord) -> float:
    """Returns the prediction for the chosen structure in the budget's own unit: microseconds, or a share of dense."""
    return run.verification.predicted_us / (_predicted_dense_us(run) if run.verification.verdict.share else 1.0)


def _sized(draw: Callable[[float], Markup], width: float) -> Markup:
    """Draws a chart twice, for the page and for a phone; the style shows one of them."""
    return tag("div", draw(width), class_="chart wide") + tag("div", draw(PHONE), class_="chart phone")


def _budget_name(run: RunRecord) -> str:
    """Returns the label of the budget in every chart."""
    return f"budget {_amount(run, run.verification.verdict.limit)}"


def _latency_chart(run: RunRecord, dense: Estimate, pruned: Estimate) -> Callable[[float], Markup]:
    statistic = run.verification.budget.statistic
    models = {"dense": dense, "pruned": pruned}
    rows = [IntervalRow(name, latency, f"{us(latency.value)} µs", name) for name, latency in models.items()]
    limits = {_budget_name(run): run.verification.budget_us}
    title = f"Latency ({statistic}) against the budget"
    return partial(charts.intervals, title, rows, f"{statistic}, µs", limits, zero=True)


def _quality_chart(run: RunRecord) -> Callable[[float], Markup]:
    names = {"all": "all test examples"}
    rows = [
        IntervalRow(names.get(part.name, part.name), part.difference, signed(part.difference.value), "pruned")
        for part in run.verification.quality
    ]
    axis = f"{run.metadata.metric}, pruned minus dense"
    return partial(charts.intervals, "What pruning changed", rows, axis, {"no change": 0.0})


def _tradeoff(run: RunRecord, alternatives: Alternatives) -> TradeoffPlot:
    statistic = run.verification.budget.statistic
    points = [
        TradeoffPoint(
            one.name, one.latency.of(statistic).value, one.quality.value, one.kind, one.name == alternatives.answer
        )
        for one in alternatives.models
    ]
    return TradeoffPlot(
        points, f"{statistic}, µs", f"{run.metadata.metric} on test", _budget_name(run), run.verification.budget_us
    )


def _prediction_chart(run: RunRecord) -> Callable[[float], Markup]:
    verdict, predicted = run.verification.verdict, _predicted(run)
    scale, axis = (100.0, "% of dense") if verdict.share else (1.0, "µs")
    named = [
        ("predicted", Estimate(predicted, predicted, predicted), "other"),
        ("before tuning", run.precheck.measured, "pruned"),
        ("finished", verdict.measured, "pruned"),
    ]
    rows = [IntervalRow(name, it.scaled(scale), _amount(run, it.value), class_) for name, it, class_ in named]
    limits = {_budget_name(run): scale * verdict.limit}
    return partial(charts.intervals, "Predicted against measured latency", rows, axis, limits)


def _sublayers(layers: int, dense: dict[int, float], pruned: dict[int, float]) -> list[SublayerLatency]:
    """Returns the predicted latency of every sub-layer, given that of the slots of both models."""
    names = ["embed, head", *(f"{index} {label}" for index in range(layers) for label in ("attention", "FFN"))]
    return [(name, dense.get(slot, 0.0), pruned.get(slot, 0.0)) for slot, name in enumerate(names)]


def _of_structure(run: RunRecord, mask: Mask) -> dict[str, Any]:
    """Returns the template's variables that only a part of the dense model has."""
    verification, dims = run.verification, run.dims
    specs = {"dense": ArchSpec.full(dims), "pruned": verification.spec}
    parts = {model: run.profile.parts(spec, verification.budget) for model, spec in specs.items()}
    return {
        "layers": [LayerDrawing.of(layer, dims) for layer in mask.layers],
        "predicted_us": {model: sum(of_slots.values()) for model, of_slots in parts.items()},
        "sublayers_chart": _sized(partial(charts.microseconds, _sublayers(dims.layers, **parts)), HALF),
        "prediction_chart": _sized(_prediction_chart(run), HALF),
        "verified_over_predicted": verification.verdict.measured.value / _predicted(run),
    }


def _of_search(run: RunRecord, search: SearchResult, front: TimedFront) -> dict[str, Any]:
    """Returns the template's variables that only a search has."""
    scored = {one.spec: one for one in run.scored}
    plot = SearchPlot(
        points=run.scored,
        front=sorted((scored[c] for c in search.front if c in scored), key=lambda one: one.predicted_us),
        finalists=[scored[one.spec] for one in search.finalists if one.spec in scored],
        timed=front.points,
        chosen=scored[search.chosen.spec],
        budget=_budget_name(run),
        budget_us=run.verification.budget.resolve(_predicted_dense_us(run)),
        target_us=search.target_us,
    )
    errors = [abs(point.error) for point in front.points]
    return {
        "structures": _structures(run, search),
        "search_chart": _sized(partial(charts.search_points, plot), WIDE),
        "progress_chart": _sized(partial(charts.best_so_far, plot), HALF),
        "legend": charts.search_legend(plot),
        "policy_chart": run.policy and _sized(partial(charts.preferences, run.policy, run.metadata.space.names), WIDE),
        "median_error": median(errors),
        "worst_error": max(errors),
        "other_budgets": _other_budgets(run, plot),
        "aim": plot.target_us / plot.budget_us - 1.0,
    }


def _of_learning(run: RunRecord) -> dict[str, Any]:
    """Returns the template's variables that only learned masks have."""
    drawn = [(_sized(partial(charts.keep_ratios, level), WIDE), level) for level in run.learned]
    return {"learned": LEARNED.get(run.metadata.settings.method), "learned_charts": drawn}


def _other_budgets(run: RunRecord, plot: SearchPlot) -> list[dict[str, Any]]:
    """Returns budgets around that of the run, its own among them, with the best structure (None) that was scored within
    each, and the command that makes a model of it (of the run's own, none)."""
    budget = run.verification.budget
    own = budget.share or plot.budget_us
    amounts = [own if times == 1.0 else float(f"{times * own:.2g}") for times in OTHER_BUDGETS]
    found = []
    for amount in amounts:
        if budget.share and amount > 1.0:
            continue
        within = [one for one in plot.points if one.predicted_us <= amount / own * plot.target_us]
        latency = (replace(budget, share=amount) if budget.share else replace(budget, us=amount)).amount
        words = ["prunetime", "pick", str(run.folder), "--latency", latency]
        words += ["--out", f"{run.folder}-{latency.rstrip('%')}"]
        best = max(within, key=lambda one: one.score, default=None)
        found.append({"budget": amount, "best": best, "command": shlex.join(words) if amount != own else ""})
    return found


def _structures(run: RunRecord, search: SearchResult) -> list[dict[str, Any]]:
    """Returns the finalists, best first, and the best of each kind of baseline: with the agreement while searching
    (`score`) and on the finalists' data (`rescored`)."""
    score = {one.spec: one.score for one in run.scored}
    rescored = {one.spec: one.score for one in search.finalists}
    named = [("chosen" if one.spec == search.chosen.spec else "finalist", one) for one in search.finalists]
    named += [(f"best {kind}", one) for kind, one in search.baselines.items() if one]
    return [
        {
            "name": name,
            "structure": one,
            "score": score.get(one.spec, one.score),
            "rescored": rescored.get(one.spec),
            "kept": _kept_by_layer(one.spec, run.metadata.space),
        }
        for name, one in named
    ]


def _kept_by_layer(spec: ArchSpec, space: Space) -> dict[str, list[str]]:
    """Returns what a structure of `space` keeps in each layer, by column of the table of structures."""
    kept = {
        "Heads": [f"{layer.heads}" for layer in spec.layers],
        "FFN neurons": [f"{layer.ffn}" for layer in spec.layers],
    }
    if space.tokens:
        kept["Tokens"] = [f"{layer.tokens:.0%}" for layer in spec.layers]
    if space.blocks:
        whole = [max(1, replace(layer, blocks=()).weights(space.dims)) for layer in spec.layers]
        weights = [layer.weights(space.dims) for layer in spec.layers]
        kept["Weights in blocks"] = [f"{left / of:.0%}" for left, of in zip(weights, whole, strict=True)]
    return {f"{name} by layer": values for name, values in kept.items()}
