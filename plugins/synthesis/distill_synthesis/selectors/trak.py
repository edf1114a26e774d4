"""The ``trak`` selector: what the target's log-odds owe to a sequence, by a linear model in gradient space.

Legend: n sequences of the pool, m of the target, K columns of a projection.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from distill_core.errors import DataError
from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.el2n import NOTHING, predicts, ranked
from distill_synthesis.selectors.options import TrakOptions

Doubles = npt.NDArray[np.float64]


class Trak:
    """TRAK (2303.14186): ``(mean over networks of phi(z)^T (Phi^T Phi)^-1 Phi^T) (mean of diag(1 - p))``.

    Each network is a short training on another random share of the pool. ``phi`` is the gradient of the output function
    ``log p - log(1 - p)`` over linear layers without the head (the paper: all parameters), projected by random signs.
    Of a language model, ``phi`` and ``1 - p`` are means over the predicted tokens of a sequence. The score is the mean
    over the target. The paper's soft threshold, which zeroes small scores, is left out: it changes no order at the top.
    """

    def __init__(self, options: TrakOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        from distill_synthesis.selectors.warm_up import warm_up

        target = [sequence for sequence in context.target or () if predicts(sequence)]
        if not target:
            raise DataError("trak aims at a target, and was given none with anything to predict: set data.target")
        refused = {i: NOTHING for i, sequence in enumerate(context.pool) if not predicts(sequence)}
        options = self.options
        influences, doubts = np.zeros(len(context.pool)), np.zeros(len(context.pool))
        for network in range(options.networks):
            checkpoint = warm_up(context, options.warm_up, whole=True, network=network)[-1]
            state = checkpoint.state(context)
            seed = options.projection_seed + network
            given = {"dim": options.dim, "seed": seed, "layers": options.layers, "of": "margin"}
            pool_nK = context.features.gradients(context.pool, state, **given)
            target_mK = context.features.gradients(target, state, **given)
            influences += influence(pool_nK, target_mK, damping=options.damping) / options.networks
            doubts += np.asarray(context.features.doubts(context.pool, state), dtype=np.float64) / options.networks
        scores = influences * doubts
        scores[list(refused)] = np.nan
        found = ranked(scores, refused, "hardest", "attribution of the target's mean log-odds to the sequence")
        return replace(found, notes={"networks": options.networks, "target": len(target)})


def influence(pool_nK: npt.ArrayLike, target_mK: npt.ArrayLike, *, damping: float) -> Doubles:
    """[n] ``Phi (Phi^T Phi + lambda)^-1 mean(phi of the target)``, lambda = damping times the mean eigenvalue.

    Solved in the smaller space: ``Phi (Phi^T Phi + lambda)^-1 = (Phi Phi^T + lambda)^-1 Phi``. The mean eigenvalue is
    ``|Phi|^2 / min(n, K)``.

    Raises:
        DataError: the matrix has no inverse: all gradients are 0, or they span less than they should and no damping.
    """
    phi_nK = np.asarray(pool_nK, dtype=np.float64)
    aim_K = np.asarray(target_mK, dtype=np.float64).mean(axis=0)
    rows, columns = phi_nK.shape
    gram = phi_nK.T @ phi_nK if columns <= rows else phi_nK @ phi_nK.T
    gram[np.diag_indices_from(gram)] += damping * np.trace(gram) / len(gram)
    try:
        factor = np.linalg.cholesky(gram)
    except np.linalg.LinAlgError:
        raise DataError(
            f"trak: the projected gradients of {rows} sequences in {columns} columns have no inverse with damping "
            f"{damping}: raise damping, or take fewer columns (dim)"
        ) from None
    right = aim_K if columns <= rows else phi_nK @ aim_K
    solved: Doubles = np.linalg.solve(factor.T, np.linalg.solve(factor, right))
    return phi_nK @ solved if columns <= rows else solved
