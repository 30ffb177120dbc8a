"""Line charts and histograms as inline SVG, whose colors come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 10, 34
STYLE = (  # of a file of its own; the colors of page.css, readable on white and on black
    "text{fill:#7a7d87;font:12px sans-serif}.grid{stroke:#8884}.line{fill:none;stroke:currentColor;stroke-width:2}"
    ".dot{fill:currentColor}.teacher{color:#7a7d87}.plain{color:#d97706}.distilled{color:#3b82f6}"
)
POINTS = 200  # of a line; longer ones are thinned

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        title: its name.
        points: x and y.
        style: class name of its color.
        data_class: name of the object class that it is about; empty for all.
    """

    title: str
    points: Points
    style: str
    data_class: str = ""


def line_chart(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    mark: float | None = None,
) -> str:
    """Lines over common axes; an empty text without a point.

    Args:
        lines: to draw.
        x_title: of the horizontal axis.
        y_title: of the vertical axis.
        x_range: of the horizontal axis; None means that of the points.
        y_range: of the vertical axis; None means that of the points.
        mark: x of a vertical line.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return ""
    xs, ys = x_range or _range([x for x, _ in points]), y_range or _range([y for _, y in points])
    parts = [_axes(xs, ys, x_title, y_title)]
    for line in lines:
        places = " ".join(f"{_x(x, xs):.1f},{_y(y, ys):.1f}" for x, y in thinned(line.points))
        about = f' data-class="{escape(line.data_class)}"' if line.data_class else ""
        if len(line.points) == 1:
            x, y = places.split(",")
            parts.append(f'<circle class="dot {line.style}" cx="{x}" cy="{y}" r="3"{about}/>')
        elif line.points:
            parts.append(f'<polyline class="line {line.style}" points="{places}"{about}/>')
    if mark is not None:
        at = _x(mark, xs)
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    titles = list(dict.fromkeys((line.title, line.style) for line in lines if line.points and not line.data_class))
    legend = "".join(f'<span class="key {style}">{escape(title)}</span>' for title, style in titles)
    return _svg("".join(parts), f"{y_title} over {x_title}") + f'<div class="legend">{legend}</div>'


def standalone(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """:func:`line_chart` as an SVG file of its own, without a legend; an empty text without a point."""
    drawing = line_chart(lines, x_title, y_title, x_range, y_range).partition("<div")[0]
    if not drawing:
        return ""
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="600" '
    return drawing.replace("<svg ", head, 1).replace(">", f"><style>{STYLE}</style>", 1) + "\n"


def histogram(right: Sequence[int], wrong: Sequence[int], mark: float | None) -> str:
    """Bars of right and wrong detections by score, on a logarithmic axis; an empty text without a detection."""
    most = max((a + b for a, b in zip(right, wrong)), default=0)
    if not most:
        return ""
    top = math.log10(most + 1)
    counts = [0, *(10**power for power in range(math.floor(math.log10(most)) + 1))]
    ticks = [(math.log10(count + 1), _number(count)) for count in counts]
    parts = [_axes((0, 1), (0, top), "score", "detections", ticks)]
    step = 1 / len(right)
    for number, (good, bad) in enumerate(zip(right, wrong)):
        left, width = _x(number * step, (0, 1)), _x(step, (0, 1)) - LEFT
        for count, style, shift in ((good, "right", 0.0), (bad, "wrong", width / 2)):
            y = _y(math.log10(count + 1), (0, top))
            height = HEIGHT - BOTTOM - y
            parts.append(
                f'<rect class="bar {style}" x="{left + shift + 0.5:.1f}" y="{y:.1f}" width="{width / 2 - 1:.1f}" '
                f'height="{height:.1f}"><title>{count} {style}</title></rect>'
            )
    if mark is not None:
        at = _x(mark, (0, 1))
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    legend = '<span class="key right">right</span><span class="key wrong">wrong</span>'
    return _svg("".join(parts), "right and wrong detections by score") + f'<div class="legend">{legend}</div>'


def thinned(points: Points) -> Points:
    """At most ``POINTS`` points; the first and the last one stay."""
    if len(points) <= POINTS:
        return points
    step = (len(points) - 1) / (POINTS - 1)
    return [points[round(k * step)] for k in range(POINTS)]


def _svg(content: str, title: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{content}</svg>'


def _axes(
    xs: tuple[float, float], ys: tuple[float, float], x_title: str, y_title: str,
    y_ticks: Sequence[tuple[float, str]] | None = None,
) -> str:  # fmt: skip
    parts = []
    for tick, text in y_ticks or [(tick, _number(tick)) for tick in _ticks(*ys)]:
        y = _y(tick, ys)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for tick in _ticks(*xs, whole=x_title in ("epoch", "step")):
        x = _x(tick, xs)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_title)}</text>')
    parts.append(
        f'<text class="axis" transform="translate(11 {(HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    return "".join(parts)


def _x(value: float, xs: tuple[float, float]) -> float:
    return LEFT + (value - xs[0]) / (xs[1] - xs[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, ys: tuple[float, float]) -> float:
    share = min(max((value - ys[0]) / (ys[1] - ys[0]), 0.0), 1.0)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Four to six round numbers of a range, or fewer whole ones."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.99)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{round(value, 4):g}"
