"""The charts of the report. Each is drawn for a width in pixels, so that a phone gets a drawing of its own size.

Colour is never the only cue: models and kinds also differ in shape, position or a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from prunetime.core.arch import LayerSpec
from prunetime.core.estimate import Estimate
from prunetime.report.search_record import KeepRatios, PolicyPreferences, ScoredStructure, TimedPoint
from prunetime.report.svg import (
    Scale,
    bar,
    figure,
    line,
    mark,
    shortened,
    staircase,
    tag,
    text,
    width_of,
    x_axis,
    y_axis,
)

NARROW = 400
"""Below this width labels stand above what they name."""

GENERATIONS = 4
"""Shades by which the evolution's points tell early from late ones."""

SHAPES = {"uniform": "square", "depth": "triangle", "evolution": "circle"}
INTERVAL_SHAPES = {"dense": "square", "pruned": "circle", "other": "triangle"}

SHOWN = 24
"""Generations that the chart of preferences shows, evenly spread."""


@dataclass(frozen=True)
class IntervalRow:
    """A labelled interval; `class_` (dense, pruned, other) chooses colour and shape, `value` is its text."""

    label: str
    interval: Estimate
    value: str
    class_: str


SublayerLatency = tuple[str, float, float]
"""The name of a sub-layer, and its predicted microseconds in the dense and in the pruned model."""


HeatCell = tuple[str, float, str]
"""A cell of a heat map: the class that colours it, its opacity and its tooltip."""

HeatRow = tuple[str, Sequence[HeatCell], str]
"""A row of a heat map: the label before it, its cells, and the text behind it."""

AGREEMENT = "agreement"


@dataclass(frozen=True)
class SearchPlot:
    """The structures that the charts of a search show; all others are among `points`.

    `budget` is the label of the budget; `target_us` is what predictions had to be inside.
    """

    points: Sequence[ScoredStructure]
    front: Sequence[ScoredStructure]
    finalists: Sequence[ScoredStructure]
    timed: Sequence[TimedPoint]
    chosen: ScoredStructure
    budget: str
    budget_us: float
    target_us: float


@dataclass(frozen=True)
class TradeoffPoint:
    """A model in the chart of quality against latency; `class_` (dense, pruned, other) chooses colour and shape."""

    label: str
    us: float
    quality: float
    class_: str
    is_answer: bool


@dataclass(frozen=True)
class TradeoffPlot:
    """The models of the chart of quality against latency, the names of its axes, and the budget."""

    points: Sequence[TradeoffPoint]
    latency: str
    quality: str
    budget: str
    budget_us: float


def tradeoff(plot: TradeoffPlot, width: float) -> Markup:
    """Draws the quality of each model against its latency; a star is the answer."""
    left, right, top, bottom = 56.0, width - 16.0, 26.0, 300.0
    across = Scale.around([0.0, *(point.us for point in plot.points), plot.budget_us], left, right)
    across = replace(across, low=0.0)
    up = Scale.around([point.quality for point in plot.points], bottom, top)
    limit = across(plot.budget_us)
    content = [*x_axis(across, top, bottom, plot.latency), *y_axis(up, left, right, plot.quality)]
    content += [line(limit, top, limit, bottom, "limit"), text(limit + 6, top + 10, plot.budget, class_="limit-name")]
    for point in plot.points:
        x, y, name = across(point.us), up(point.quality), shortened(point.label, width / 3)
        beside = x + 10 + width_of(name) < right
        shape = "star" if point.is_answer else INTERVAL_SHAPES[point.class_]
        title = f"{point.label}: {point.us:,.0f} µs, {point.quality:.4f}"
        content.append(mark(shape, x, y, 9.0 if point.is_answer else 5.5, point.class_, title))
        content.append(text(x + 10 if beside else x - 10, y + 4, name, "start" if beside else "end", "tick"))
    return figure("Quality against latency", "Each mark is a model.", (width, bottom + 44), content)


def intervals(
    title: str, rows: Sequence[IntervalRow], axis: str, limits: dict[str, float], width: float, *, zero: bool = False
) -> Markup:
    """Draws a row for each interval (a mark, whiskers, its text) and named vertical lines at `limits`."""
    narrow = width < NARROW
    beside = 24.0 + max(width_of(one.value) for one in rows)
    before = min(width / 3, 24.0 + max(width_of(one.label) for one in rows))
    left, right, height, top = (20.0, 20.0, 44.0, 26.0) if narrow else (before, beside, 32.0, 26.0)
    bottom = top + height * len(rows)
    values = [v for one in rows for v in (one.interval.low, one.interval.high, one.interval.value)]
    scale = Scale.around([*values, *limits.values()], left, width - right)
    scale = replace(scale, low=0.0) if zero else scale
    content = x_axis(scale, top, bottom, axis)
    for name, value in limits.items():
        x = scale(value)
        reach = width_of(name) / 2
        anchor = "start" if x < reach else "end" if x > width - reach else "middle"
        above = 20.0 if narrow else 0.0  # there labels stand
        content += [line(x, top + height * i + above, x, top + height * (i + 1), "limit") for i in range(len(rows))]
        content.append(text(x, top - 12, name, anchor, "limit-name"))
    for index, one in enumerate(rows):
        base = top + height * index
        y = base + (30.0 if narrow else height / 2)
        low, value, high = (scale(v) for v in (one.interval.low, one.interval.value, one.interval.high))
        if narrow:
            label = text(4, base + 16, shortened(one.label, width - beside))
            said = text(width - 4, base + 16, one.value, "end", "value")
        else:
            label = text(left - 12, y + 4, shortened(one.label, left - 12), "end")
            said = text(width - right + 12, y + 4, one.value, "start", "value")
        content += [
            label,
            said,
            line(low, y, high, y, f"whisker {one.class_}"),
            line(low, y - 5, low, y + 5, f"whisker {one.class_}"),
            line(high, y - 5, high, y + 5, f"whisker {one.class_}"),
            mark(INTERVAL_SHAPES[one.class_], value, y, 5.5, one.class_, f"{one.label}: {one.value}"),
        ]
    description = "; ".join(f"{one.label}: {one.value}" for one in rows)
    return figure(title, description, (width, bottom + 42), content)


def search_points(plot: SearchPlot, width: float) -> Markup:
    """Draws the predicted latency against the agreement of every scored structure, the Pareto front and the budget.

    A diamond stands at the measured latency of a point, and a line leads to it from where it was predicted.
    """
    height = 400.0 if width >= NARROW else 330.0
    left, right, top, bottom = 52.0, width - 20, 44.0, height - 42
    y = _agreement_scale(plot, top, bottom)
    predicted = (one.predicted_us for one in plot.points)
    measured = (end for one in plot.timed for end in (one.measured.low, one.measured.high))
    x = Scale.around([*predicted, *measured, plot.budget_us, plot.target_us], left, right, 0.04)
    edge = bottom - 4

    def at(one: ScoredStructure | TimedPoint) -> tuple[float, float]:
        return x(one.predicted_us), min(edge, y(one.score))

    content = [
        *x_axis(x, top, bottom, "latency, µs: predicted; a diamond, measured"),
        *y_axis(y, left, right, AGREEMENT),
        *_limit(x, plot.target_us, (top - 2, bottom), "target", "aim"),
        *_limit(x, plot.budget_us, (top - 16, bottom), "limit", plot.budget),
    ]
    last = max((one.generation for one in plot.points), default=0)
    for one in sorted(plot.points, key=lambda e: (e.kind != "evolution", e.generation)):
        shade = "" if one.kind != "evolution" else f" g{_shade(one.generation, last)}"
        content.append(mark(SHAPES[one.kind], *at(one), 4.0, one.kind + shade, _describe(one)))
    content.append(staircase([at(one) for one in plot.front], "front"))
    content += [mark("circle", *at(one), 7.5, "finalist") for one in plot.finalists]
    content.append(mark("star", *at(plot.chosen), 10.0, "chosen", "Chosen. " + _describe(plot.chosen)))
    for point in plot.timed:
        (start, y_at), end = at(point), x(point.measured.value)
        content += [
            line(start, y_at, end, y_at, "off"),
            line(x(point.measured.low), y_at, x(point.measured.high), y_at, "whisker timed"),
            mark("diamond", end, y_at, 5.5, "timed", _describe_timed(point)),
        ]
    description = (
        f"{len(plot.points)} structures scored; {len(plot.front)} are on the Pareto front; the chosen one: "
        f"{_describe(plot.chosen)}; timed: {'; '.join(map(_describe_timed, plot.timed))}"
    )
    return figure("Every structure the search scored", description, (width, height), content)


def search_legend(plot: SearchPlot) -> Markup:
    """Returns a list of what the marks of `search_points` mean."""
    kinds = {one.kind for one in plot.points}
    items = (
        tag("li", tag("svg", mark(shape, 9.0, 9.0, 6.0, class_), viewBox="0 0 18 18", aria_hidden="true"), name)
        for shape, class_, name in _MARKS
        if (kind := class_.split()[0]) not in SHAPES or kind in kinds
    )
    return tag("ul", *items, class_="legend")


_MARKS = (
    ("square", "uniform", "uniform: all layers equal"),
    ("triangle", "depth", "depth: whole layers"),
    ("circle", "evolution g0", "evolution: first population"),
    *(("circle", f"evolution g{shade}", f"evolution: quarter {shade} of it") for shade in range(1, GENERATIONS + 1)),
    ("circle", "finalist", "finalist"),
    ("star", "chosen", "chosen"),
    ("diamond", "timed", "measured"),
)


def best_so_far(plot: SearchPlot, width: float) -> Markup:
    """Draws the agreement of the best structure inside the aim after each evaluation."""
    height = 260.0
    left, right, top, bottom = 52.0, width - 14, 26.0, height - 42
    best: list[tuple[int, ScoredStructure]] = []
    for index, one in enumerate(plot.points, start=1):
        if one.predicted_us <= plot.target_us and (not best or one.score > best[-1][1].score):
            best.append((index, one))
    y = _agreement_scale(plot, top, bottom)
    x = Scale(0.0, 1.0 + len(plot.points), left, right)
    edge = bottom - 4
    content = [*x_axis(x, top, bottom, "structures scored"), *y_axis(y, left, right, AGREEMENT)]
    for index, one in enumerate(plot.points, start=1):
        inside = "faint" if one.predicted_us <= plot.target_us else "faint outside"
        at = min(edge, y(one.score))
        content.append(mark(SHAPES[one.kind], x(index), at, 2.5, inside, _describe(one)))
    steps = [(x(index), min(edge, y(one.score))) for index, one in best]
    content.append(staircase([*steps, *((right, at) for _, at in steps[-1:])], "front"))
    summary = [f"{AGREEMENT} {one.score:.4f} after {index}" for index, one in best]
    return figure("Best structure inside the aim so far", "; ".join(summary), (width, height), content)


def preferences(policy: Sequence[PolicyPreferences], names: Sequence[str], width: float) -> Markup:
    """Draws a square for every gene and generation, the darker the likelier the policy changes that gene first.

    The left half of a square is for lowering the gene, the right half for raising it.
    """
    count = min(SHOWN, len(policy))
    shown = [policy[round(i * (len(policy) - 1) / max(1, count - 1))] for i in range(count)]
    most = max(max(pair) for one in shown for pair in one.shares) or 1.0
    rows = []
    for gene, name in enumerate(names):
        cells = []
        for one in shown:
            fewer, more = one.shares[gene]
            said = f"generation {one.generation}, {name}: fewer {fewer:.1%}, more {more:.1%}"
            cells += [("fewer", fewer / most, said), ("more", more / most, said)]
        rows.append((name, cells, ""))
    final = max(range(len(names)), key=lambda gene: sum(shown[-1].shares[gene]))
    summary = f"in the end most often changed: {names[final]}"
    ends = (f"{shown[0].generation}", f"generation {shown[-1].generation}")
    return _heat_map("What the policy prefers to change", summary, rows, ends, width, halves=True)


def keep_ratios(level: KeepRatios, width: float) -> Markup:
    """Draws a line of squares for every mask, the fainter the less it kept at that moment of training."""
    rows = []
    for name, kept in zip(level.masks, zip(*level.ratios, strict=True), strict=True):
        cells = [
            ("kept", ratio, f"{name}, {step / len(kept):.0%} of the steps: {ratio:.1%} kept")
            for step, ratio in enumerate(kept, start=1)
        ]
        rows.append((name, cells, f"{kept[-1]:.0%}"))
    summary = "kept in the end: " + ", ".join(f"{label} {value}" for label, _, value in rows)
    return _heat_map(f"How much of {level.of} was kept", summary, rows, ("first step", "last step"), width)


def _heat_map(
    name: str, summary: str, rows: Sequence[HeatRow], ends: tuple[str, str], width: float, *, halves: bool = False
) -> Markup:
    """Draws the cells of each row from left to right; `ends` name the first and the last column.

    With `halves` two cells are one square, and a gap is left between squares.
    """
    height, top = 14.0, 8.0
    left, right = 12.0 + max(width_of(label) for label, *_ in rows), 12.0 + max(width_of(value) for *_, value in rows)
    column, bottom = (width - left - right) / len(rows[0][1]), top + height * len(rows)
    content = []
    for index, (label, cells, value) in enumerate(rows):
        y = top + height * index
        beside = [text(width - right + 8, y + 11, value, class_="value")] if value else []
        content += [text(left - 8, y + 11, label, "end"), *beside]
        for at, (class_, opacity, title) in enumerate(cells):
            gap = at % 2 if halves else -0.3
            box = {"x": left + column * at, "y": y, "width": column - gap, "height": height - 1}
            content.append(tag("rect", tag("title", title), **box, class_=class_, fill_opacity=f"{opacity:.2f}"))
    content += [text(left, bottom + 16, ends[0]), text(width - right, bottom + 16, ends[1], "end")]
    return figure(name, summary, (width, bottom + 24), content)


def microseconds(parts: Sequence[SublayerLatency], width: float) -> Markup:
    """Draws two bars for every sub-layer: the dense model's (outlined) and the pruned model's (filled)."""
    row, top = 24.0, 8.0
    left, right = (88.0, 84.0) if width < NARROW else (118.0, 96.0)
    bottom = top + row * len(parts)
    most = max(max(dense_us, pruned_us) for _, dense_us, pruned_us in parts)
    scale = Scale(0.0, 1.02 * most or 1.0, left, width - right)
    content = x_axis(scale, top, bottom, "predicted µs")
    for index, (label, dense_us, pruned_us) in enumerate(parts):
        y = top + row * index
        content += [
            text(left - 8, y + 16, label, "end"),
            bar(left, y + 3, scale(dense_us) - left, 8, "dense-bar"),
            bar(left, y + 13, scale(pruned_us) - left, 8, "pruned-bar"),
            text(width - right + 8, y + 16, f"{dense_us:,.0f} → {pruned_us:,.0f}", "start", "value"),
        ]
    description = "; ".join(f"{label}: dense {dense:.0f} µs, pruned {pruned:.0f} µs" for label, dense, pruned in parts)
    return figure("Where the microseconds go", description, (width, bottom + 42), content)


def _shade(generation: int, last: int) -> int:
    """Returns 0 for the first population, and from 1 on the quarter of the evolution."""
    return 0 if generation == 0 else 1 + min(GENERATIONS - 1, GENERATIONS * (generation - 1) // max(1, last))


def _agreement_scale(plot: SearchPlot, top: float, bottom: float) -> Scale:
    """Returns the vertical axis of agreement, from Tukey's lower fence on, lest a failure hides the rest."""
    scores = sorted(one.score for one in plot.points)
    quarter, three = scores[len(scores) // 4], scores[3 * len(scores) // 4]
    held = [score for score in scores if score >= quarter - 1.5 * (three - quarter)]
    return Scale.around(held, bottom, top)


def _limit(x: Scale, us: float, span: tuple[float, float], class_: str, name: str) -> list[Markup]:
    """Draws a labelled vertical line at `us` microseconds, from the first to the second y of `span`."""
    at, (top, bottom) = x(us), span
    anchor = "end" if at > (x.start + x.end) / 2 else "start"
    return [line(at, top, at, bottom, class_), text(at, top - 2, name, anchor, f"{class_}-name")]


def _describe(one: ScoredStructure) -> str:
    origin = one.kind if one.kind != "evolution" else f"evolution, generation {one.generation}"
    layers = ", ".join(map(_describe_layer, one.spec.layers))
    return f"{AGREEMENT} {one.score:.4f}, {one.predicted_us:,.0f} µs ({origin}): {layers}"


def _describe_layer(layer: LayerSpec) -> str:
    """Returns how many heads and FFN neurons are kept, weights in their blocks, and which share of the tokens."""
    found = f"{layer.heads}h+{layer.ffn}"
    if layer.blocks:
        found += f" ({sum(block.kept * block.rows * block.columns for block in layer.blocks):,} weights in blocks)"
    return found + (f" ({layer.tokens:.1%} of the tokens)" if layer.tokens < 1.0 else "")


def _describe_timed(point: TimedPoint) -> str:
    it = point.measured
    return f"predicted {point.predicted_us:,.0f} µs, measured {it.value:,.0f} µs ({it.low:,.0f}–{it.high:,.0f})"
