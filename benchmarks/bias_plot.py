"""The plot of `target_bias`: a bar per target for angle, held-out KL, confidence and calibration, as SVG."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.target_bias import TARGETS, means

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "target-bias.svg"
COLOURS = dict(zip(TARGETS, ("#374151", "#0f766e", "#be123c", "#b45309", "#a16207", "#7c3aed", "#1d4ed8"), strict=True))
PANELS = (
    ("degrees", "angle of the head's gradient to full KD", "{:.1f}°"),
    ("kl", "held-out KL to the teacher, nat", "{:.3f}"),
    ("confidence", "mean confidence (line: the teacher's)", "{:.3f}"),
    ("calibration_error", "calibration error (line: the teacher's)", "{:.3f}"),
)
WIDTH, LEFT, TOP, BAR, GAP, RIGHT = 440, 124, 34, 15, 7, 58


def picture(result: dict[str, Any]) -> str:
    """Two by two panels; a whisker is one standard deviation of the seeds to each side."""
    height = TOP + len(TARGETS) * (BAR + GAP) + 12
    panels = [
        _panel(result, name, title, shown, (i % 2) * WIDTH, (i // 2) * height)
        for i, (name, title, shown) in enumerate(PANELS)
    ]
    size = result["settings"]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {2 * height}" width="{2 * WIDTH}" '
            f'height="{2 * height}" font-family="sans-serif" font-size="11" role="img">',
            f"<title>Bias of sparse targets of {size['entries']} entries against full KD</title>",
            f'<rect width="{2 * WIDTH}" height="{2 * height}" fill="#ffffff"/>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(result: dict[str, Any], name: str, title: str, shown: str, x0: int, y0: int) -> str:
    columns = means(result, name)
    spread = {t: statistics.stdev(c) if len(c) > 1 else 0.0 for t, c in columns.items()}
    mean = {target: statistics.mean(column) for target, column in columns.items()}
    top = max(mean[target] + spread[target] for target in TARGETS)
    top = max(top, mean.get("teacher", 0.0)) or 1.0

    def x(value: float) -> float:
        return round(x0 + LEFT + (WIDTH - LEFT - RIGHT) * max(0.0, value) / top, 1)

    parts = [f'<text x="{x0 + 12}" y="{y0 + 20}" font-size="13" fill="#111827">{title}</text>']
    for row, target in enumerate(TARGETS):
        y = y0 + TOP + row * (BAR + GAP)
        low, high = x(mean[target] - spread[target]), x(mean[target] + spread[target])
        width = round(x(mean[target]) - x(0), 1)
        parts += [
            f'<text x="{x0 + LEFT - 6}" y="{y + 12}" text-anchor="end" fill="#374151">{target}</text>',
            f'<rect x="{x(0):g}" y="{y}" width="{width:g}" height="{BAR}" fill="{COLOURS[target]}"/>',
            f'<path d="M{low:g} {y + 7}H{high:g}" stroke="#111827"/>',
            f'<text x="{high + 5:g}" y="{y + 12}" fill="#374151">{shown.format(mean[target])}</text>',
        ]
    if mean.get("teacher"):
        bottom = y0 + TOP + len(TARGETS) * (BAR + GAP) - GAP + 4
        parts.append(
            f'<path d="M{x(mean["teacher"]):g} {y0 + TOP - 4}V{bottom}" stroke="#111827" stroke-dasharray="4 3"/>'
        )
    return "\n".join(parts)
