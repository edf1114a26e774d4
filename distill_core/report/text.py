"""Figures and foreign text as a person reads them. Everything here returns plain text; the template escapes it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MINUS = "\u2212"
"""A real minus sign."""

MISSING = "\u2013"
"""Shown where there is no figure."""

_BIDI_CONTROLS = {0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def visible(text: str, *, limit: int = 4000) -> str:
    """Foreign text made safe to look at: control characters become visible signs, length is bounded.

    NUL and other control characters become their control pictures, bidirectional overrides and lone surrogates their
    code point in brackets, so that a document can neither hide text nor turn the page around.

    >>> visible("a\\x00b\\u202ec")
    'a\u2400b\u27e8U+202E\u27e9c'
    """
    cut = text[:limit]
    left = len(text) - len(cut)
    shown = "".join(_shown(character) for character in cut.replace("\r\n", "\n"))
    return shown + (f" \u2026 ({left:,} more characters)" if left else "")


def _shown(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if code in _BIDI_CONTROLS or 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000:
        return f"\u27e8U+{code:04X}\u27e9"
    return character


def number(value: float | None) -> float:
    """A figure from ``results.json``: None is NaN, "inf" and "-inf" are infinities."""
    return math.nan if value is None else float(value)


def decimals(value: float, error: float) -> int:
    """Decimals that show two figures of the error, or four of the value where there is no error.

    >>> decimals(2.3517, 0.061), decimals(2.3517, float("nan")), decimals(241.3, 15.0)
    (3, 3, 0)
    """
    if math.isfinite(error) and error > 0:
        return min(max(1 - math.floor(math.log10(error)), 0), 6)
    if not math.isfinite(value) or value == 0:
        return 3
    return min(max(3 - math.floor(math.log10(abs(value))), 0), 6)


def fixed(value: float, places: int, *, sign: bool = False) -> str:
    """A number with so many decimals, a real minus sign, a dash for NaN.

    >>> fixed(-0.5, 2), fixed(0.25, 1, sign=True), fixed(float("nan"), 2)
    ('\u22120.50', '+0.2', '\u2013')
    """
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return ("" if value > 0 else MINUS) + "\u221e"
    text = f"{abs(value):,.{places}f}"
    negative = value < 0 and float(text.replace(",", "")) != 0
    return (MINUS if negative else "+" if sign else "") + text


def figure(metric: Mapping[str, Any]) -> dict[str, str]:
    """Value, error and interval of a metric of the results, in its unit (fractions in per cent)."""
    scale = 100.0 if metric["unit"] == "fraction" else 1.0
    value, error = scale * number(metric["value"]), scale * number(metric["standard_error"])
    low, high = (scale * number(end) for end in metric["interval"])
    places = decimals(value, error)
    per_cent = "\u202f%" if metric["unit"] == "fraction" else ""
    return {
        "value": fixed(value, places) + (per_cent if not math.isnan(value) else ""),
        "error": "" if math.isnan(error) else f"\u00b1\u202f{fixed(error, places)}",
        "interval": "" if math.isnan(low) else f"{fixed(low, places)} to {fixed(high, places)}",
    }


def difference(comparison: Mapping[str, Any], unit: str) -> dict[str, str]:
    """A paired difference with its interval, in the metric's unit (fractions in percentage points)."""
    scale = 100.0 if unit == "fraction" else 1.0
    value, error = scale * number(comparison["difference"]), scale * number(comparison["standard_error"])
    low, high = (scale * number(end) for end in comparison["interval"])
    places = decimals(value, error)
    return {
        "value": fixed(value, places, sign=True) + ("\u202fpp" if unit == "fraction" else ""),
        "interval": "" if math.isnan(low) else f"{fixed(low, places, sign=True)} to {fixed(high, places, sign=True)}",
        "p": p_value(number(comparison["p_adjusted"])),
    }


def p_value(p: float) -> str:
    """
    >>> p_value(0.0312), p_value(1e-9), p_value(float("nan"))
    ('p = 0.031', 'p < 0.001', '')
    """
    if math.isnan(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def short(value: float) -> str:
    """A count in few characters.

    >>> short(134515008), short(4096), short(950), short(0.1234)
    ('135M', '4,096', '950', '0.123')
    """
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= limit:
            scaled = value / limit
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.3g}{unit}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value != round(value) else f"{value:.0f}"


def size(n_bytes: float) -> str:
    """
    >>> size(538_090_408), size(2048), size(17)
    ('538 MB', '2.05 kB', '17 B')
    """
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= limit:
            return f"{n_bytes / limit:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def share(value: float) -> str:
    """
    >>> share(0.3444), share(0.00042)
    ('34\u202f%', '0.042\u202f%')
    """
    per_cent = 100 * value
    return f"{per_cent:.0f}\u202f%" if abs(per_cent) >= 10 else f"{per_cent:.2g}\u202f%"


def times(value: float) -> str:
    """
    >>> times(2.71), times(14.2)
    ('2.7\u00d7', '14\u00d7')
    """
    return f"{value:.0f}\u00d7" if value >= 10 else f"{value:.1f}\u00d7"


def direction(metric: Mapping[str, Any]) -> str:
    """Which way is better, for people; empty where neither is.

    >>> direction({"higher_is_better": False}), direction({"higher_is_better": None})
    ('lower is better', '')
    """
    higher = metric["higher_is_better"]
    return "" if higher is None else "higher is better" if higher else "lower is better"


def arrow(metric: Mapping[str, Any]) -> str:
    """The same as an arrow."""
    return {True: "\u2191", False: "\u2193"}.get(metric["higher_is_better"], "")


def unit_and_direction(metric: Mapping[str, Any]) -> str:
    """
    >>> unit_and_direction({"unit": "nat/token", "higher_is_better": False})
    'nat/token, lower is better'
    """
    unit = "" if metric["unit"] in ("", "fraction") else str(metric["unit"])
    return ", ".join(part for part in (unit, direction(metric)) if part)


def in_sentence(label: str) -> str:
    """A label inside a sentence: lower case, but not an abbreviation or a name.

    >>> in_sentence("Cross-entropy"), in_sentence("KL to the teacher"), in_sentence("Jensen-Shannon divergence")
    ('cross-entropy', 'KL to the teacher', 'Jensen-Shannon divergence')
    """
    first = label.split(" ", 1)[0]
    return label if any(letter.isupper() for letter in first[1:]) else label[:1].lower() + label[1:]


def listing(names: list[str], *, last: str = "and") -> str:
    """
    >>> listing(["a"]), listing(["a", "b"]), listing(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}" if names else ""
