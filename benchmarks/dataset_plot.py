"""The plot of `dataset_distillation`: accuracy over the images per class, every method and baseline, as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.dataset_baselines import BASELINES
from benchmarks.dataset_table import shares
from benchmarks.set_accuracy import Share

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "dataset-distillation.svg"
METHOD_COLOURS = ("#be123c", "#0f766e", "#1d4ed8", "#b45309", "#7c3aed", "#15803d")
BASELINE_COLOURS = ("#9ca3af", "#6b7280", "#4b5563", "#a8a29e", "#78716c", "#57534e", "#374151")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 800, 420, 52, 34, 300, 44
SHIFT = 5
"""Pixels between two methods at one size, so that their whiskers do not cover each other."""


def picture(result: Mapping[str, Any]) -> str:
    """A whisker is two standard errors to each side; baselines are grey and dashed, all images a line."""
    found = shares(result)
    full = found.pop(None, {}).get("full")
    sizes = sorted(size for size in found if size is not None)
    names = list(dict.fromkeys(name for size in sizes for name in found[size]))
    names = [*(n for n in names if n not in BASELINES), *(n for n in BASELINES if n in names)]
    series = {name: {size: found[size][name] for size in sizes if name in found[size]} for name in names}
    ends = [end for one in series.values() for s in one.values() for end in _ends(s)]
    low = 0.05 * int(min(ends) / 0.05)

    def y(share: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - (share - low) / (1 - low)), 1)

    parts = _axes(sizes, low, y)
    if full is not None:
        parts.append(f'<path d="M{LEFT} {y(full.mean):g}H{WIDTH - RIGHT}" stroke="#111827" stroke-dasharray="2 3"/>')
        parts.append(_text(WIDTH - RIGHT - 4, y(full.mean) - 5, f"all images, {100 * full.mean:.1f}", "end"))
    for index, (name, one) in enumerate(series.items()):
        dashed = name in BASELINES
        colours = BASELINE_COLOURS if dashed else METHOD_COLOURS
        colour = colours[(list(BASELINES).index(name) if dashed else index) % len(colours)]
        shift = SHIFT * (index - len(series) / 2)
        points = [(_x(sizes, size) + shift, share) for size, share in one.items()]
        parts += _series(points, y, colour, dashed)
        parts += _legend(index, name, colour, dashed)
    title = f"Accuracy of networks trained on few images ({result['settings']['data']})"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            'font-family="sans-serif" font-size="11" role="img">',
            f"<title>{title}</title>",
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
            f'<text x="{LEFT}" y="20" font-size="13" fill="#111827">{title}, %; whiskers: two standard errors</text>',
            *parts,
            "</svg>\n",
        ]
    )


def _ends(share: Share) -> tuple[float, float]:
    half = 0.0 if share.error != share.error else 2 * share.error
    return share.mean - half, share.mean + half


def _x(sizes: list[int], size: int) -> float:
    """Sizes stand at equal distances."""
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (sizes.index(size) + 0.5) / len(sizes), 1)


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="#374151">{text}</text>'


def _axes(sizes: list[int], low: float, y: Any) -> list[str]:
    parts = []
    for tick in range(round(100 * low), 101, 5):
        parts.append(f'<path d="M{LEFT} {y(tick / 100):g}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        parts.append(_text(LEFT - 6, y(tick / 100) + 4, str(tick), "end"))
    parts += [_text(_x(sizes, size), HEIGHT - BOTTOM + 18, str(size), "middle") for size in sizes]
    return [*parts, _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "images per class", "middle")]


def _series(points: list[tuple[float, Share]], y: Any, colour: str, dashed: bool) -> list[str]:
    path = "L".join(f"{x:g} {y(share.mean):g}" for x, share in points)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    parts = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>']
    for x, share in points:
        bottom, top = (y(end) for end in _ends(share))
        parts.append(f'<path d="M{x:g} {bottom:g}V{top:g}" stroke="{colour}"/>')
        parts.append(f'<circle cx="{x:g}" cy="{y(share.mean):g}" r="3" fill="{colour}"/>')
    return parts


def _legend(index: int, name: str, colour: str, dashed: bool) -> list[str]:
    x, y = WIDTH - RIGHT + 24, TOP + 16 + 22 * index
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    line = f'<path d="M{x} {y - 4}h24" stroke="{colour}" stroke-width="1.5"{dash}/>'
    return [line, f'<circle cx="{x + 12}" cy="{y - 4}" r="3" fill="{colour}"/>', _text(x + 32, y, name, "start")]
