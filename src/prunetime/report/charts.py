"""The charts of the report. Each is drawn for a width in pixels, so that a phone gets a drawing of its own size.

Colour is never the only cue: models and kinds also differ in shape, position or a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from markupsafe import Markup

from prunetime.core.arch import LayerSpec
from prunetime.core.mask import Bools, LayerMask
from prunetime.report.structures import Evaluated, LearnedLevel, Preferences, TimedPoint
from prunetime.report.svg import (
    Scale,
    bar,
    figure,
    line,
    mark,
    polyline,
    shortened,
    tag,
    text,
    width_of,
    x_axis,
    y_axis,
)
from prunetime.report.values import Interval

NARROW = 400
"""Below this width labels stand above what they name."""

GENERATIONS = 4
"""Shades by which the evolution's points tell early from late ones."""

SHAPES = {"uniform": "square", "depth": "triangle", "evolution": "circle"}

CELL = 12
"""Pitch of the squares that are heads, in pixels."""

SHOWN = 24
"""Generations that the chart of preferences shows, evenly spread."""

HEADS_A_LINE = 12
ROWS_WIDTH = 144.0
STRIPES = 48
"""Parts into which the FFN rows of a layer are gathered to show where the kept ones are."""


@dataclass(frozen=True)
class Line:
    """One labelled interval; `class_` (dense, pruned, other) chooses colour and shape, `value` is its text."""

    label: str
    interval: Interval
    value: str
    class_: str


@dataclass(frozen=True)
class Part:
    """Predicted microseconds of one sub-layer in both models."""

    label: str
    dense_us: float
    pruned_us: float


AGREEMENT = "agreement"


@dataclass(frozen=True)
class SearchPlot:
    """What the search's chart shows; `chosen` and the others are in `points`."""

    points: Sequence[Evaluated]
    front: Sequence[Evaluated]
    finalists: Sequence[Evaluated]
    timed: Sequence[TimedPoint]
    chosen: Evaluated
    budget: str
    budget_us: float
    target_us: float


def intervals(
    title: str, lines: Sequence[Line], axis: str, limits: dict[str, float], width: float, *, from_zero: bool = False
) -> Markup:
    """One row per interval: a mark at the value, whiskers to its ends, its text; named vertical lines at `limits`."""
    narrow = width < NARROW
    beside = 24.0 + max(width_of(one.value) for one in lines)
    before = min(width / 3, 24.0 + max(width_of(one.label) for one in lines))
    left, right, row, top = (20.0, 20.0, 44.0, 26.0) if narrow else (before, beside, 32.0, 26.0)
    bottom = top + row * len(lines)
    values = [v for one in lines for v in (one.interval.low, one.interval.high, one.interval.value)]
    scale = Scale.around([*values, *limits.values()], left, width - right)
    if from_zero:
        scale = replace(scale, low=0.0)
    content = x_axis(scale, top, bottom, axis)
    for name, value in limits.items():
        x = scale(value)
        reach = width_of(name) / 2
        anchor = "start" if x < reach else "end" if x > width - reach else "middle"
        above = 20.0 if narrow else 0.0  # there labels stand
        content += [line(x, top + row * i + above, x, top + row * (i + 1), "limit") for i in range(len(lines))]
        content.append(text(x, top - 12, name, anchor, "limit-name"))
    for index, one in enumerate(lines):
        base = top + row * index
        y = base + (30.0 if narrow else row / 2)
        low, value, high = (scale(v) for v in (one.interval.low, one.interval.value, one.interval.high))
        if narrow:
            label = shortened(one.label, width - beside)
            content += [text(4, base + 16, label), text(width - 4, base + 16, one.value, "end", "value")]
        else:
            label = shortened(one.label, left - 12)
            content += [
                text(left - 12, y + 4, label, "end"),
                text(width - right + 12, y + 4, one.value, "start", "value"),
            ]
        content += [
            line(low, y, high, y, f"whisker {one.class_}"),
            line(low, y - 5, low, y + 5, f"whisker {one.class_}"),
            line(high, y - 5, high, y + 5, f"whisker {one.class_}"),
            mark(_shape(one.class_), value, y, 5.5, one.class_, f"{one.label}: {one.value}"),
        ]
    description = "; ".join(f"{one.label}: {one.value}" for one in lines)
    return figure(title, description, (width, bottom + 42), content)


def search_points(plot: SearchPlot, width: float) -> Markup:
    """Predicted latency against quality of everything that was scored, the Pareto front and the budget.

    A diamond stands at the measured latency of a point, and a line leads to it from where it was predicted.
    """
    height = 400.0 if width >= NARROW else 330.0
    left, right, top, bottom = 52.0, width - 20, 44.0, height - 42
    y = _quality_scale(plot, top, bottom)
    predicted = (one.predicted_us for one in plot.points)
    measured = (end for one in plot.timed for end in (one.measured.low, one.measured.high))
    x = Scale.around([*predicted, *measured, plot.budget_us, plot.target_us], left, right, 0.04)
    edge = bottom - 4

    def at(one: Evaluated | TimedPoint) -> tuple[float, float]:
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
    steps = [at(one) for one in plot.front]
    content.append(polyline(_staircase(steps), "front"))
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
        + _describe(plot.chosen)
        + "; timed: "
        + "; ".join(map(_describe_timed, plot.timed))
    )
    return figure("Every structure the search scored", description, (width, height), content)


def search_legend(plot: SearchPlot) -> Markup:
    """What the marks of `search_points` mean."""
    kinds = {one.kind for one in plot.points}
    items = []
    for shape, class_, name in _MARKS:
        if shape == SHAPES.get(class_.split()[0]) and class_.split()[0] not in kinds:
            continue
        drawn = tag("svg", mark(shape, 9.0, 9.0, 6.0, class_), viewBox="0 0 18 18", aria_hidden="true")
        items.append(tag("li", drawn, name))
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
    """Quality of the best structure inside the aim after each evaluation."""
    height = 260.0
    left, right, top, bottom = 52.0, width - 14, 26.0, height - 42
    best: list[tuple[int, Evaluated]] = []
    for index, one in enumerate(plot.points, start=1):
        if one.predicted_us <= plot.target_us and (not best or one.score > best[-1][1].score):
            best.append((index, one))
    y = _quality_scale(plot, top, bottom)
    x = Scale(0.0, 1.0 + len(plot.points), left, right)
    edge = bottom - 4
    content = [*x_axis(x, top, bottom, "structures scored"), *y_axis(y, left, right, AGREEMENT)]
    for index, one in enumerate(plot.points, start=1):
        inside = "faint" if one.predicted_us <= plot.target_us else "faint outside"
        at = min(edge, y(one.score))
        content.append(mark(SHAPES[one.kind], x(index), at, 2.5, inside, _describe(one)))
    steps = [(x(index), min(edge, y(one.score))) for index, one in best]
    content.append(polyline(_staircase([*steps, *((right, at) for _, at in steps[-1:])]), "front"))
    summary = [f"{AGREEMENT} {one.score:.4f} after {index}" for index, one in best]
    return figure("Best structure inside the aim so far", "; ".join(summary), (width, height), content)


def preferences(policy: Sequence[Preferences], names: Sequence[str], width: float) -> Markup:
    """A square for every gene and generation, darker where the policy prefers to change it: its left half to lower it,
    its right half to raise it."""
    count = min(SHOWN, len(policy))
    shown = [policy[round(i * (len(policy) - 1) / max(1, count - 1))] for i in range(count)]
    genes = len(names)
    row, top, left = 14.0, 8.0, 12.0 + max(map(width_of, names))
    column, bottom = (width - left - 14) / len(shown), top + row * genes
    most = max(max(pair) for one in shown for pair in one.shares) or 1.0
    content = []
    for gene in range(genes):
        y = top + row * gene
        name = names[gene]
        content.append(text(left - 8, y + 11, name, "end"))
        for index, one in enumerate(shown):
            said = (
                f"generation {one.generation}, {name}: fewer {one.shares[gene][0]:.1%}, more {one.shares[gene][1]:.1%}"
            )
            for side, share in enumerate(one.shares[gene]):
                x = left + column * (index + side / 2)
                shape = {
                    "x": x,
                    "y": y,
                    "width": column / 2 - side,
                    "height": row - 1,
                    "class_": ("fewer", "more")[side],
                }
                content.append(tag("rect", tag("title", said), fill_opacity=f"{share / most:.2f}", **shape))
    last = [f"{shown[0].generation}", f"generation {shown[-1].generation}"]
    content += [text(left, bottom + 16, last[0], "start"), text(width - 14, bottom + 16, last[1], "end")]
    final = max(range(genes), key=lambda gene: sum(shown[-1].shares[gene]))
    summary = f"in the end most often changed: {names[final]}"
    return figure("What the policy prefers to change", summary, (width, bottom + 24), content)


def keep_ratios(level: LearnedLevel, width: float) -> Markup:
    """A line of squares for every mask, the fainter the less it kept at that moment; its last keep ratio beside it."""
    row, top, left, right = 14.0, 8.0, 12.0 + max(map(width_of, level.masks)), 56.0
    column, bottom = (width - left - right) / len(level.ratios), top + row * len(level.masks)
    content = []
    for index, name in enumerate(level.masks):
        y = top + row * index
        kept = [moment[index] for moment in level.ratios]
        for at, ratio in enumerate(kept):
            title = tag("title", f"{name}, {(at + 1) / len(kept):.0%} of the steps: {ratio:.1%} kept")
            box = {"x": left + column * at, "y": y, "width": column + 0.3, "height": row - 1}
            content.append(tag("rect", title, **box, class_="kept", fill_opacity=f"{ratio:.2f}"))
        content += [
            text(left - 8, y + 11, name, "end"),
            text(width - right + 8, y + 11, f"{kept[-1]:.0%}", "start", "value"),
        ]
    content += [text(left, bottom + 16, "first step"), text(width - right, bottom + 16, "last step", "end")]
    summary = "kept in the end: " + ", ".join(
        f"{n} {r:.0%}" for n, r in zip(level.masks, level.ratios[-1], strict=True)
    )
    return figure(f"How much of {level.of} was kept", summary, (width, bottom + 24), content)


def microseconds(parts: Sequence[Part], width: float) -> Markup:
    """Two bars for every sub-layer: the dense model's (outlined) and the pruned model's (filled)."""
    row, top = 24.0, 8.0
    left, right = (88.0, 84.0) if width < NARROW else (118.0, 96.0)
    bottom = top + row * len(parts)
    most = max(max(part.dense_us, part.pruned_us) for part in parts)
    scale = Scale(0.0, 1.02 * most or 1.0, left, width - right)
    content = x_axis(scale, top, bottom, "predicted µs")
    for index, part in enumerate(parts):
        y = top + row * index
        content += [
            text(left - 8, y + 16, part.label, "end"),
            bar(left, y + 3, scale(part.dense_us) - left, 8, "dense-bar"),
            bar(left, y + 13, scale(part.pruned_us) - left, 8, "pruned-bar"),
            text(width - right + 8, y + 16, f"{part.dense_us:,.0f} → {part.pruned_us:,.0f}", "start", "value"),
        ]
    description = "; ".join(f"{p.label}: dense {p.dense_us:.0f} µs, pruned {p.pruned_us:.0f} µs" for p in parts)
    return figure("Where the microseconds go", description, (width, bottom + 42), content)


def heads(layer: LayerMask) -> Markup:
    """A square per head: filled if kept, crossed out if not."""
    kept = layer.heads if layer.spec().has_attention else layer.heads & False
    cells = []
    for index, alive in enumerate(kept.tolist()):
        x, y = CELL * (index % HEADS_A_LINE) + 1.0, CELL * (index // HEADS_A_LINE) + 1.0
        size = CELL - 2.0
        title = tag("title", f"head {index}: {'kept' if alive else 'removed'}")
        cells.append(tag("rect", title, x=x, y=y, width=size, height=size, rx=2, class_="kept" if alive else "gone"))
        if not alive:
            cells.append(line(x + 2, y + size - 2, x + size - 2, y + 2, "cross"))
    across = min(len(kept), HEADS_A_LINE)
    box = (float(CELL * across), float(CELL * -(-len(kept) // HEADS_A_LINE)))
    return figure(f"{int(kept.sum())} of {len(kept)} heads kept", _numbers(kept), box, cells)


def rows(layer: LayerMask) -> Markup:
    """A bar as long as the share of FFN rows kept, and under it a strip of where in the layer they are."""
    kept = layer.ffn if layer.spec().has_ffn else layer.ffn & False
    parts = min(STRIPES, len(kept))
    edges = [len(kept) * i // parts for i in range(parts + 1)]
    stripe = ROWS_WIDTH / parts
    content = [
        tag("rect", x=0.5, y=1.5, width=ROWS_WIDTH - 1, height=11, rx=2, class_="gone"),
        bar(0.0, 1.0, ROWS_WIDTH * float(kept.mean()), 12.0, "kept"),
        tag("rect", x=0.5, y=17.5, width=ROWS_WIDTH - 1, height=5, class_="gone"),
    ]
    for index in range(parts):
        share = float(kept[edges[index] : edges[index + 1]].mean())
        if share:
            content.append(
                tag("rect", x=stripe * index, y=17, width=stripe, height=6, class_="kept", fill_opacity=f"{share:.2f}")
            )
    title = f"{int(kept.sum())} of {len(kept)} FFN rows kept"
    return figure(title, "Bar: the share kept. Strip: where in the layer.", (ROWS_WIDTH, 24.0), content)


def _staircase(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """`points` from left to right, with a corner between each two: level up to the next, then up to it."""
    corners = [corner for a, b in pairwise(points) for corner in (a, (b[0], a[1]))]
    return [*corners, *points[-1:]]


def _shape(class_: str) -> str:
    return {"dense": "square", "pruned": "circle"}.get(class_, "triangle")


def _shade(generation: int, last: int) -> int:
    """0 for the initial population, then the quarter of the evolution, from 1 on."""
    return 0 if generation == 0 else 1 + min(GENERATIONS - 1, GENERATIONS * (generation - 1) // max(1, last))


def _quality_scale(plot: SearchPlot, top: float, bottom: float) -> Scale:
    """Better is higher. Scores below Tukey's lower fence are left out, so that a failure does not hide the rest."""
    scores = sorted(one.score for one in plot.points)
    quarter, three = scores[len(scores) // 4], scores[3 * len(scores) // 4]
    held = [score for score in scores if score >= quarter - 1.5 * (three - quarter)]
    return Scale.around(held, bottom, top)


def _limit(x: Scale, us: float, span: tuple[float, float], class_: str, name: str) -> list[Markup]:
    """A labelled vertical line at `us` microseconds, from the first to the second y of `span`."""
    at, (top, bottom) = x(us), span
    anchor = "end" if at > (x.start + x.end) / 2 else "start"
    return [line(at, top, at, bottom, class_), text(at, top - 2, name, anchor, f"{class_}-name")]


def _describe(one: Evaluated) -> str:
    origin = one.kind if one.kind != "evolution" else f"evolution, generation {one.generation}"
    layers = ", ".join(map(_describe_layer, one.spec.layers))
    return f"{AGREEMENT} {one.score:.4f}, {one.predicted_us:,.0f} µs ({origin}): {layers}"


def _describe_layer(layer: LayerSpec) -> str:
    """Heads and FFN rows; and of what is left of them the weights in kept blocks, and the tokens."""
    found = f"{layer.heads}h+{layer.ffn}"
    if layer.blocks:
        found += f" ({sum(block.kept * block.rows * block.columns for block in layer.blocks):,} weights in blocks)"
    return found + (f" ({layer.tokens:.1%} of the tokens)" if layer.tokens < 1.0 else "")


def _describe_timed(point: TimedPoint) -> str:
    it = point.measured
    return f"predicted {point.predicted_us:,.0f} µs, measured {it.value:,.0f} µs ({it.low:,.0f}–{it.high:,.0f})"


def _numbers(kept: Bools) -> str:
    return "kept: " + (", ".join(str(index) for index in kept.nonzero()[0].tolist()) or "none")
