"""The plot of `gradient_quality` over the number of tokens, as a hand-written SVG."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from benchmarks.head_gradients import METHODS

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "gradient-quality.svg"
COLOURS = dict(zip(METHODS, ("#b45309", "#0f766e", "#7c3aed", "#1d4ed8"), strict=True))
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 380, 260, 52, 40, 12, 40


def picture(result: dict[str, Any]) -> str:
    """One panel per text and k; both axes logarithmic."""
    texts = list(dict.fromkeys(m["text"] for m in result["measurements"]))
    entries = result["settings"]["entries"]
    low, high = _limits([m["degrees"] for m in result["measurements"]])
    panels = [
        _panel(result, text, k, column * WIDTH, row * HEIGHT, low, high)
        for row, text in enumerate(texts)
        for column, k in enumerate(entries)
    ]
    width, height = WIDTH * len(entries), HEIGHT * len(texts) + 36
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="sans-serif" font-size="11" role="img">',
            "<title>Angle of the head's gradient to the full-vocabulary one, over the number of tokens</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *panels,
            _legend(HEIGHT * len(texts) + 14),
            "</svg>\n",
        ]
    )


def _limits(degrees: list[float]) -> tuple[float, float]:
    """Enclosing values of 1, 2 and 5 times powers of ten."""
    ticks = [step * 10.0**power for power in range(-3, 3) for step in (1, 2, 5)]
    return max(t for t in ticks if t <= min(degrees)), min(t for t in ticks if t >= max(degrees))


def _legend(y: int) -> str:
    parts = []
    for i, method in enumerate(METHODS):
        x = LEFT + 150 * i
        parts.append(f'<rect x="{x}" y="{y - 8}" width="18" height="4" fill="{COLOURS[method]}"/>')
        parts.append(f'<text x="{x + 24}" y="{y}" fill="#111827">{method}</text>')
    return "\n".join(parts)


def _label(x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="#374151">{text}</text>'


def _panel(result: dict[str, Any], text: str, k: int, x0: int, y0: int, low: float, high: float) -> str:
    rows = [m for m in result["measurements"] if m["text"] == text and m["k"] == k]
    sizes = sorted({m["tokens"] for m in rows})
    span = math.log(sizes[-1] / sizes[0]) or 1.0

    def x(tokens: int) -> float:
        return round(x0 + LEFT + (WIDTH - LEFT - RIGHT) * math.log(tokens / sizes[0]) / span, 1)

    def y(degrees: float) -> float:
        return round(y0 + TOP + (HEIGHT - TOP - BOTTOM) * math.log(high / degrees) / math.log(high / low), 1)

    parts = [f'<text x="{x0 + LEFT}" y="{y0 + 22}" font-size="13" fill="#111827">{text}, k = {k}</text>']
    for tick in [t * 10.0**p for p in range(-3, 3) for t in (1, 2, 5)]:
        if low <= tick <= high:
            parts.append(f'<path d="M{x0 + LEFT} {y(tick)}H{x0 + WIDTH - RIGHT}" stroke="#e5e7eb"/>')
            parts.append(_label(x0 + LEFT - 6, y(tick) + 4, f"{tick:g}°", anchor="end"))
    bottom = y0 + HEIGHT - BOTTOM
    parts += [_label(x(size), bottom + 16, f"{size:,}") for size in sizes]
    parts.append(_label(x0 + (LEFT + WIDTH) / 2, bottom + 31, "tokens"))
    for method in METHODS:
        own = [m for m in rows if m["method"] == method]
        mean = {n: statistics.mean(m["degrees"] for m in own if m["tokens"] == n) for n in sizes}
        points = " ".join(f"{x(n)},{y(degrees)}" for n, degrees in mean.items())
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[method]}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(n)}" cy="{y(d)}" r="2.5" fill="{COLOURS[method]}"/>' for n, d in mean.items()]
    return "\n".join(parts)
