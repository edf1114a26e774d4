"""Small charts as inline SVG. They take their colours from the page, so they follow light and dark by themselves.

A chart is drawn 360 units wide, the width of a column on a desktop and of a phone's screen, so its text is never
scaled down. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from distill_core.report.text import visible

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36
LABEL_CHARACTERS, CHARACTER_WIDTH, LABEL_HEIGHT = 16, 6.6, 14
"""Longest label at the end of a line, and about how wide and high its letters are."""

MAX_POINTS = 240
"""Longer lines are thinned to so many points, keeping both ends."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line or set of dots.

    Args:
        label: for the tooltip.
        tone: CSS class that gives the colour (``tone-teacher``, ``tone-0``, ...).
        points: (x, y) in order; points that are not finite are left out.
        bands: half widths of the uncertainty of each point, or empty.
        style: ``line``, ``faint`` (a thin, pale line), ``marked`` (a line with dots), ``dots``.
    """

    label: str
    tone: str
    points: Sequence[Point]
    bands: Sequence[float] = field(default_factory=tuple)
    style: str = "line"


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart: a value with its confidence interval (NaN ends: none)."""

    label: str
    tone: str
    value: float
    low: float
    high: float
    text: str


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values that cover [low, high].

    >>> ticks(0.13, 2.2), ticks(0, 100)
    ([0.5, 1.0, 1.5, 2.0], [0.0, 20.0, 40.0, 60.0, 80.0, 100.0])
    """
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) + 0.0 for index in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """
    >>> tick_text(2000.0), tick_text(0.25), tick_text(-1.0), tick_text(2_500_000)
    ('2,000', '0.25', '\u22121', '2.5M')
    """
    size = abs(value)
    text = f"{size / 1e6:g}M" if size >= 1e6 else f"{size:,.0f}" if size == round(size) else f"{size:.6g}"
    return ("\u2212" if value < 0 else "") + text


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    x_log: bool = False,
    y_zero: bool = False,
    diagonal: bool = False,
    y_per_cent: bool = False,
    x_ticks: Sequence[float] = (),
    end_labels: bool = True,
) -> Markup:
    """Lines over a common axis, with uncertainty bands, dots or a diagonal (reliability).

    Each line carries its label at its end and each single dot beside it, so no legend is needed (``end_labels``).

    Args:
        series: later ones are drawn on top; of several with one label the last one carries it.
        title: what a screen reader says.
        x_label: under the axis.
        x_log: logarithmic axis, for x > 0.
        y_zero: begin the vertical axis at 0.
        diagonal: draw y = x.
        y_per_cent: label both axes in per cent.
        x_ticks: values named on the horizontal axis; default: round ones.
        end_labels: write the labels into the chart; False where a legend beside it has them.
    """
    drawn = [_finite(one) for one in series]
    drawn = [one for one in drawn if one.points]
    if not drawn:
        return Markup("")
    xs = [x for one in drawn for x, _ in one.points]
    ys = [value for one in drawn for value in _extremes(one)]
    right = WIDTH - RIGHT - (_label_room(drawn) if end_labels else 0)
    x_of = _axis(min(xs), max(xs), LEFT, right, log=x_log)
    low, high = (0.0 if y_zero else min(ys)), max(ys)
    if diagonal:
        low, high = 0.0, max(high, max(xs))
        x_of = _axis(0.0, high, LEFT, right)
    pad = 0.04 * (high - low) or abs(high) * 0.1 or 1.0
    y_of = _axis(low - (0 if y_zero or diagonal else pad), high + pad, HEIGHT - BOTTOM, TOP)
    label = (lambda v: f"{100 * v:.0f}%") if y_per_cent else tick_text
    parts = [_grid_y(ticks(low, high + pad, 4), y_of, label, right)]
    x_low, x_high = (0.0, high) if diagonal else (min(xs), max(xs))
    named = x_ticks or (_powers(x_low, x_high) if x_log else ticks(x_low, x_high, 5))
    parts.append(_grid_x(named, x_of, label, x_label, right))
    if diagonal:
        parts.append(
            f'<line class="diagonal" x1="{x_of(0):.1f}" y1="{y_of(0):.1f}"'
            f' x2="{x_of(high):.1f}" y2="{y_of(high):.1f}"/>'
        )
    parts += [_band(one, x_of, y_of) for one in drawn if one.bands]
    parts += [_line(one, x_of, y_of) for one in drawn]
    if end_labels:
        parts.append(_labels(drawn, x_of, y_of))
    return _svg(title, HEIGHT, parts)


def _label(one: Series) -> str:
    text = visible(one.label, limit=120).replace("\n", " ")
    return text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 1] + "\u2026"


def _label_room(drawn: Sequence[Series]) -> float:
    """Width kept free on the right for the longest label."""
    return 8 + CHARACTER_WIDTH * max(len(_label(one)) for one in drawn)


def _labels(drawn: Sequence[Series], x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    """The labels beside the last points, moved apart where they would overlap."""
    last = {one.label: one for one in drawn}
    placed = sorted((y_of(one.points[-1][1]), index, one) for index, one in enumerate(last.values()))
    heights = spread([y for y, _, _ in placed], LABEL_HEIGHT, TOP + 4, HEIGHT - BOTTOM)
    parts = []
    for y, (_, _, one) in zip(heights, placed, strict=True):
        x = x_of(one.points[-1][0]) + 8
        parts.append(f'<text class="end {one.tone}" x="{x:.1f}" y="{y + 4:.1f}">{escape(_label(one))}</text>')
    return "".join(parts)


def spread(heights: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Sorted heights moved apart to at least ``gap``, kept between ``top`` and ``bottom`` where there is room.

    >>> spread([10.0, 12.0, 50.0], 14.0, 0.0, 100.0), spread([98.0, 99.0], 14.0, 0.0, 100.0)
    ([10.0, 24.0, 50.0], [86.0, 100.0])
    """
    found: list[float] = []
    for height in heights:
        found.append(max(height, top, found[-1] + gap if found else top))
    limit = bottom
    for index in range(len(found) - 1, -1, -1):
        found[index] = min(found[index], limit)
        limit = found[index] - gap
    return found


def interval_chart(rows: Sequence[Interval], *, title: str, zero: bool = False) -> Markup:
    """Values with their confidence intervals, one under the other.

    Args:
        rows: at least one with a finite value; others are named without a mark.
        title: what a screen reader says.
        zero: let the axis begin at 0.
    """
    ends = [end for row in rows for end in (row.value, row.low, row.high) if math.isfinite(end)]
    if not ends:
        return Markup("")
    low, high = (0.0 if zero else min(ends)), max(ends)
    pad = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    row_height, top = 40, 4
    bottom = top + row_height * len(rows)
    x_of = _axis(low - (0 if zero else pad), high + pad, 8, WIDTH - 12)
    parts = []
    for value in ticks(low, high + pad, 5):
        x = x_of(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick_text(value)}</text>')
    for index, row in enumerate(rows):
        y = top + index * row_height
        parts.append(f'<text class="name" x="8" y="{y + 14}">{_text(row.label)}</text>')
        parts.append(f'<text class="value" x="{WIDTH - 12}" y="{y + 14}" text-anchor="end">{_text(row.text)}</text>')
        if not math.isfinite(row.value):
            continue
        tip = f"<title>{_text(row.label)}: {_text(row.text)}</title>"
        if math.isfinite(row.low) and math.isfinite(row.high):
            a, b = x_of(row.low), x_of(row.high)
            parts.append(f'<line class="whisker {row.tone}" x1="{a:.1f}" y1="{y + 26}" x2="{b:.1f}" y2="{y + 26}"/>')
        parts.append(f'<circle class="dot {row.tone}" cx="{x_of(row.value):.1f}" cy="{y + 26}" r="5">{tip}</circle>')
    return _svg(title, bottom + 22, parts)


def _text(text: str) -> Markup:
    """Foreign text inside a chart: control characters visible, short, escaped."""
    return escape(visible(text, limit=120))


def _svg(title: str, height: float, parts: Sequence[str]) -> Markup:
    body = "".join(parts)
    return Markup(  # every text in the parts has been escaped above
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{_text(title)}">{body}</svg>'
    )


def _axis(low: float, high: float, start: float, stop: float, *, log: bool = False) -> Callable[[float], float]:
    """Position on the page of a value."""
    if log:
        low, high = math.log2(low), math.log2(high)
    span = (high - low) or 1.0
    if log:
        return lambda value: start + (math.log2(value) - low) / span * (stop - start)
    return lambda value: start + (value - low) / span * (stop - start)


def _powers(low: float, high: float) -> list[float]:
    exponents = range(math.ceil(math.log2(low) - 1e-9), math.floor(math.log2(high) + 1e-9) + 1)
    every = math.ceil(len(exponents) / 7)
    return [2.0**exponent for exponent in exponents][::every]


def _grid_y(
    values: Sequence[float], y_of: Callable[[float], float], label: Callable[[float], str], right: float
) -> str:
    parts = []
    for value in values:
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>')
    return "".join(parts)


def _grid_x(
    values: Sequence[float], x_of: Callable[[float], float], label: Callable[[float], str], title: str, right: float
) -> str:
    base = HEIGHT - BOTTOM
    parts = [
        f'<text class="tick" x="{x_of(value):.1f}" y="{base + 16}" text-anchor="middle">{label(value)}</text>'
        for value in values
    ]
    middle = (LEFT + right) / 2
    parts.append(f'<text class="axis" x="{middle:g}" y="{HEIGHT - 4}" text-anchor="middle">{_text(title)}</text>')
    return "".join(parts)


def _finite(one: Series) -> Series:
    keep = [i for i, (x, y) in enumerate(one.points) if math.isfinite(x) and math.isfinite(y)]
    if len(keep) > MAX_POINTS:
        keep = [keep[round(i * (len(keep) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]
    bands = [one.bands[i] if math.isfinite(one.bands[i]) else 0.0 for i in keep] if one.bands else ()
    return Series(one.label, one.tone, [one.points[i] for i in keep], bands, one.style)


def _extremes(one: Series) -> list[float]:
    halves = one.bands or [0.0] * len(one.points)
    return [y + sign * half for (_, y), half in zip(one.points, halves, strict=True) for sign in (-1, 1)]


def _band(one: Series, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    upper = [(x, y + half) for (x, y), half in zip(one.points, one.bands, strict=True)]
    lower = [(x, y - half) for (x, y), half in zip(one.points, one.bands, strict=True)]
    path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in upper + lower[::-1])
    return f'<polygon class="band {one.tone}" points="{path}"/>'


def _line(one: Series, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    parts = []
    if one.style != "dots" and len(one.points) > 1:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in one.points)
        pale = " faint" if one.style == "faint" else ""
        parts.append(f'<polyline class="line{pale} {one.tone}" points="{path}"/>')
    if one.style in ("dots", "marked") or len(one.points) == 1:
        for x, y in one.points:
            tip = f"<title>{_text(one.label)}: {tick_text(x)}, {y:.4g}</title>"
            parts.append(f'<circle class="dot {one.tone}" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3">{tip}</circle>')
    return "".join(parts)
