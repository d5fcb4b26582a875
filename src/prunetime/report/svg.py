"""Functions that draw SVG elements. They escape every text and attribute; colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

_CHARACTER = 7.0
"""Width of an ordinary character of a label, in pixels (12 px system font)."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Returns an element. `class_` is written class, other underscores hyphens; None leaves an attribute out."""
    head = Markup("")
    for key, value in attributes.items():
        if value is not None:
            shown = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
            head += Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), shown)
    body = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, head, body)


def figure(title: str, description: str, size: tuple[float, float], content: Iterable[Markup]) -> Markup:
    """Returns a drawing of `size` (width, height) pixels that shrinks with its box and grows at most by a quarter."""
    width, height = size
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *content,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        style=f"max-width:{1.25 * width:.0f}px",
    )


def text(x: float, y: float, content: str, anchor: str = "start", class_: str | None = None) -> Markup:
    return tag("text", content, x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def bar(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    return tag("rect", x=x, y=y, width=max(0.0, width), height=height, rx=2, class_=class_)


def width_of(label: str) -> float:
    """Estimates the pixels that `label` takes: m, w and capitals are wider, East Asian characters widest."""
    wide = sum(1.0 if ord(c) > 0x2E7F else 0.55 if c in "mwMW@%" else 0.2 if c.isupper() else 0.0 for c in label)
    return _CHARACTER * (len(label) + wide)


def shortened(label: str, pixels: float) -> str:
    """Returns `label`, cut with an ellipsis if it would take more than about `pixels`."""
    if width_of(label) <= pixels:
        return label
    kept = next((n for n in range(len(label), 0, -1) if width_of(label[:n] + "…") <= pixels), 0)
    return label[:kept] + "…"


@dataclass(frozen=True)
class Scale:
    """A linear map of values from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, margin: float = 0.06) -> Scale:
        """Returns a scale that holds all `values`, with a margin on both sides as a share of their range."""
        held = list(values)
        low, high = min(held), max(held)
        space = margin * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - space, high + space, start, end)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, spacing: float) -> list[tuple[float, str]]:
        """Returns round values (1, 2 or 5 times a power of ten apart, at least `spacing` pixels) and their labels."""
        least = (self.high - self.low) * spacing / abs(self.end - self.start)
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(n * step, f"{n * step:,.{decimals}f}".replace("-", "−")) for n in range(first, last + 1)]


def x_axis(scale: Scale, top: float, bottom: float, name: str) -> list[Markup]:
    """Draws vertical grid lines with labels under them, and the axis' name."""
    parts = []
    for value, label in scale.ticks(52):
        x = scale(value)
        parts += [line(x, top, x, bottom, "grid"), text(x, bottom + 16, label, "middle", "tick")]
    return [*parts, text((scale.start + scale.end) / 2, bottom + 34, name, "middle", "axis")]


def y_axis(scale: Scale, left: float, right: float, name: str) -> list[Markup]:
    """Draws horizontal grid lines with labels left of them, and the axis' name above."""
    parts = []
    for value, label in scale.ticks(36):
        y = scale(value)
        parts += [line(left, y, right, y, "grid"), text(left - 6, y + 4, label, "end", "tick")]
    return [*parts, text(2, 12, name, "start", "axis")]


def staircase(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Draws a line through `points`, from left to right, that is level up to the next point and then rises to it."""
    corners = [corner for a, b in pairwise(points) for corner in (a, (b[0], a[1]))]
    return tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in (*corners, *points[-1:])), class_=class_)


def mark(shape: str, x: float, y: float, radius: float, class_: str, title: str | None = None) -> Markup:
    """Draws a point as a `circle`, `square`, `diamond`, `triangle` or `star`, with a tooltip."""
    children = [tag("title", title)] if title else []
    if shape == "circle":
        return tag("circle", *children, cx=x, cy=y, r=radius, class_=class_)
    corners = {
        "square": [(0.9, angle) for angle in (45, 135, 225, 315)],
        "diamond": [(1.0, angle) for angle in (0, 90, 180, 270)],
        "triangle": [(1.15, angle) for angle in (-90, 30, 150)],
        "star": [(1.0 if i % 2 == 0 else 0.45, -90 + 36 * i) for i in range(10)],
    }[shape]
    around = ((r * radius * 1.1, math.radians(angle)) for r, angle in corners)
    points = " ".join(f"{x + r * math.cos(a):.1f},{y + r * math.sin(a):.1f}" for r, a in around)
    return tag("polygon", *children, points=points, class_=class_)
