"""The alternating direction method of multipliers on embeddings that shall become tokens.

Legend: B texts, T positions, D channels.

    minimise  D(X)  subject to  X = Z,  every row of Z a row of the embedding table
    X <- argmin D(X) + rho/2 |X - Z + U|^2      (some steps of Adam)
    Z <- project(X + U)
    U <- U + X - Z                              (the dual variables over rho)

Boyd et al. 2011, section 3.1.1, the scaled form; GRADMM (arXiv 2502.17607) for text.
"""

from __future__ import annotations

from torch import Tensor


def pulled(gradient: Tensor, x: Tensor, z: Tensor, u: Tensor, rho: float) -> Tensor:
    """The gradient of ``D(X) + rho/2 |X - Z + U|^2`` by X, given that of D."""
    return gradient + rho * (x - z + u)


def dual(x: Tensor, z: Tensor, u: Tensor) -> Tensor:
    """U after a round."""
    return u + x - z
