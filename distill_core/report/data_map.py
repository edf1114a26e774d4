"""A map of data: points of several groups in the plane of their first two principal components, as inline SVG.

Legend: n points, D numbers each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from distill_core.report.svg import MAX_POINTS, Series, line_chart

Doubles = npt.NDArray[np.float64]

MOST_POINTS = MAX_POINTS
"""Points drawn of a group; of more, every so many-th."""


def principal_plane(features_nD: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    """Coordinates [n, 2] in the plane of greatest variance, and the share of the variance along its two axes.

    Principal components (Pearson 1901): the right singular vectors of the centred features. An axis points to where its
    largest entry is positive, so that the same features always give the same map. Constant features give zeros.

    Raises:
        ValueError: no [n, D] with n, D >= 1, or a number that is not finite.

    >>> plane, share = principal_plane([[0.0, 0.0], [2.0, 1.0], [4.0, 2.0]])
    >>> plane.round(3)[:, 0].tolist(), share.round(3).tolist()
    ([-2.236, 0.0, 2.236], [1.0, 0.0])
    """
    features = np.asarray(features_nD, dtype=np.float64)
    if features.ndim != 2 or 0 in features.shape or not np.isfinite(features).all():
        raise ValueError(f"features must be finite numbers [n, D], received shape {features.shape}")
    centred = features - features.mean(axis=0)
    _, sizes, axes_kD = np.linalg.svd(centred, full_matrices=False)
    axes_2D, variances = np.zeros((2, features.shape[1])), np.zeros(2)
    count = min(2, len(sizes))
    axes_2D[:count], variances[:count] = axes_kD[:count], sizes[:count] ** 2
    largest = np.argmax(np.abs(axes_2D), axis=1)
    axes_2D *= np.where(axes_2D[np.arange(2), largest] < 0, -1.0, 1.0)[:, None]
    total = float((sizes**2).sum())
    return centred @ axes_2D.T, variances / total if total > 0 else variances


def data_map(groups: Mapping[str, npt.ArrayLike]) -> dict[str, Any]:
    """The map as plain data: ``{"variance": [x, y], "groups": {label: {"count": n, "points": [[x, y], ...]}}}``.

    Args:
        groups: label -> features [n, D]; the plane is that of all of them together.
    """
    arrays = {label: np.asarray(features, dtype=np.float64) for label, features in groups.items()}
    plane, share = principal_plane(np.concatenate([array for array in arrays.values() if len(array)]))
    result: dict[str, Any] = {"variance": [round(float(one), 4) for one in share], "groups": {}}
    start = 0
    for label, array in arrays.items():
        own = plane[start : start + len(array)]
        start += len(array)
        step = -(-len(own) // MOST_POINTS) or 1
        shown = [[round(float(x), 5), round(float(y), 5)] for x, y in own[::step]]
        result["groups"][label] = {"count": len(own), "points": shown}
    return result


def map_svg(content: Mapping[str, Any], tones: Mapping[str, str]) -> Markup:
    """The map as a chart of dots, later groups on top; their names belong in a legend beside it.

    Args:
        content: as :func:`data_map` gives it.
        tones: CSS class of each group's colour.
    """
    x, y = content["variance"]
    series = [
        Series(label, tones[label], [(float(a), float(b)) for a, b in group["points"]], (), "dots")
        for label, group in content["groups"].items()
    ]
    label = f"first component ({x:.0%} of the variance), second: {y:.0%}"
    return line_chart(series, title="Map of the data", x_label=label, end_labels=False)
