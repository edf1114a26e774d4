"""The ``semantic-dedup`` selector: of sequences that mean nearly the same, one stays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.options import SemanticDedupOptions
from distill_synthesis.selectors.strata import Indices, generator

DUPLICATE = "nearly the same as another"
Doubles = npt.NDArray[np.float64]


class SemanticDedup:
    """SemDeDup (2303.09540): k-means on unit features, and within a cluster no two closer than a cosine distance.

    Within a cluster the sequences farthest from the centre come first, and one is refused if an earlier one lies within
    ``threshold``. What stays is ordered by how different it is. Over mean hidden states of the initial student (the
    paper: an encoder's embeddings).
    """

    def __init__(self, options: SemanticDedupOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        features = np.asarray(context.features.hidden(context.pool), dtype=np.float64)
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.where(norms > 0, norms, 1.0)
        count = self.options.clusters or math.isqrt(len(features) - 1) + 1
        rng = generator("semantic-dedup", context.seed)
        cluster, centres = spherical_k_means(features, min(count, len(features)), self.options.iterations, rng)
        nearest, likest = np.full(len(features), 2.0), np.full(len(features), -1, dtype=np.int64)
        for one in range(len(centres)):
            members = np.flatnonzero(cluster == one)
            members = members[np.argsort(features[members] @ centres[one], kind="stable")]
            distances = 1 - features[members] @ features[members].T
            for place in range(1, len(members)):
                best = int(np.argmin(distances[place, :place]))
                nearest[members[place]], likest[members[place]] = distances[place, best], members[best]
        refused = {
            int(i): f"{DUPLICATE}: sequence {likest[i]}" for i in np.flatnonzero(nearest < self.options.threshold)
        }
        order = np.argsort(-nearest, kind="stable")
        order = order[~np.isin(order, list(refused))]
        notes = {"clusters": len(centres), "duplicates": len(refused)}
        return Ranking(
            order, nearest, "cosine distance to the nearest that came before it in its cluster", refused, notes
        )


def spherical_k_means(
    unit_nD: Doubles, count: int, iterations: int, rng: np.random.Generator
) -> tuple[Indices, Doubles]:
    """The cluster of each row, and unit centres [count, D]; a cluster that empties keeps its centre."""
    centres = unit_nD[np.sort(rng.choice(len(unit_nD), count, replace=False))].copy()
    cluster = np.full(len(unit_nD), -1)
    for _ in range(iterations):
        found = np.argmax(unit_nD @ centres.T, axis=1)
        if (found == cluster).all():
            break
        cluster = found
        for one in range(count):
            total = unit_nD[cluster == one].sum(axis=0)
            length = np.linalg.norm(total)
            if length > 0:
                centres[one] = total / length
    return cluster, centres
