"""Ensemble distribution distillation: one student keeps the spread of several teachers, not their mean alone.

Legend: n rows of a chunk, K support size, C = K + 1 outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.simplex import check_same_rows
from distill_core.types import LOG_FLOOR, RowInfo, RowTarget, SupportLogits, TeacherSignals, TokenBatch
from distill_objectives.uncertainty_options import EnsembleDistributionOptions


class EnsembleDistribution:
    """Negative log-likelihood of the teachers' distributions under the student's Dirichlet (Malinin, Mlodozeniec &
    Gales 2019, arXiv 1905.00076: a prior network trained on an ensemble).

    The student's logits are log concentrations, ``alpha_v = exp(z_v - shift)``, so its expected distribution stays its
    softmax. Merging outcomes of a Dirichlet adds their concentrations; on the support and the tail it is the Dirichlet
    with ``alpha = exp([z_S, tail] - shift)`` exactly, and at K = V this is the paper's loss::

        -(1/M) sum_m log Dir(p_m; alpha)
            = -log Gamma(alpha_0) + sum_c log Gamma(alpha_c) - sum_c (alpha_c - 1) mean_m log p_mc

    The mean of the teachers' log-probabilities is the ``fixed`` aggregator's geometric mean with its
    ``log_normalizer``. A density may exceed 1, so values may be negative. Computed in float64 with the leading terms of
    log Gamma cancelled by hand, since logits of a language model make concentrations of 1e6 and more.

    Args:
        options: ``shift`` in nat.

    >>> EnsembleDistribution(EnsembleDistributionOptions()).options.shift
    0.0
    """

    properties: Mapping[str, bool] = {"exact_gradient": True}

    def __init__(self, options: EnsembleDistributionOptions) -> None:
        self.options = options

    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (1.0,)

    def prepare(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Mapping[str, Tensor]:
        """The log of the geometric mean's mass, [N]; one teacher alone is its own geometric mean, of mass 1.

        Raises:
            SignalError: an arithmetic mixture of several.
        """
        log_mass_N = signals.extra.get("log_normalizer")
        if log_mass_N is None and "ensemble_variance" not in signals.extra:
            return {}
        if log_mass_N is None:
            raise SignalError(
                "ensemble-distribution learns from the geometric mean of several teachers: train.aggregate: {use: "
                "fixed, mean: geometric}"
            )
        return {"log_normalizer": log_mass_N}

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] values in nat; dtype of the support."""
        if target is None:
            raise ValueError("ensemble-distribution compares with several teachers, but no target was given")
        check_same_rows(support, target)
        mean_nC = target.log_probs(1.0).double()
        if "log_normalizer" in rows.extra:
            mean_nC = mean_nC + rows.extra["log_normalizer"].double()[:, None]
        tail_n1 = support.tail_NT[:, support.temperature_index(1.0), None]
        log_alpha_nC = torch.cat([support.support_NK, tail_n1], dim=1).double() - self.options.shift
        # padding of the support and an empty complement are no outcomes
        real_nC = torch.cat([target.ids_NK >= 0, ~torch.isneginf(tail_n1.detach())], dim=1)
        value_n = -dirichlet_log_density(log_alpha_nC, mean_nC.clamp_min(LOG_FLOOR), real_nC)
        return value_n.to(support.support_NK.dtype)


def dirichlet_log_density(log_alpha_nC: Tensor, mean_logp_nC: Tensor, real_nC: Tensor) -> Tensor:
    """[n] mean over members of the Dirichlet's log density, float64.

    With ``s(x) = log Gamma(x) - x log x + x`` and ``q = alpha / alpha_0`` the leading terms cancel::

        log Gamma(a0) - sum log Gamma(a_c) + sum (a_c - 1) m_c
            = s(a0) - sum s(a_c) - a0 sum q_c (log q_c - m_c) - sum m_c

    Args:
        log_alpha_nC: log concentrations.
        mean_logp_nC: mean over members of the log-probabilities, finite.
        real_nC: which entries are outcomes; the others count for nothing.

    >>> even = torch.zeros(1, 3, dtype=torch.float64)  # Dirichlet(1, 1, 1): density 2 everywhere
    >>> round(dirichlet_log_density(even, even.log_softmax(1), even == 0).exp().item(), 9)
    2.0
    """
    log_alpha_nC = log_alpha_nC.masked_fill(~real_nC, -math.inf)
    log_total_n = log_alpha_nC.logsumexp(dim=1)
    logq_nC = torch.where(real_nC, log_alpha_nC - log_total_n[:, None], 0.0)
    gap_nC = torch.where(real_nC, logq_nC.exp() * (logq_nC - mean_logp_nC), 0.0)
    rest_nC = torch.where(real_nC, _gamma_rest(torch.where(real_nC, log_alpha_nC, 0.0)) + mean_logp_nC, 0.0)
    return _gamma_rest(log_total_n) - log_total_n.exp() * gap_nC.sum(dim=1) - rest_nC.sum(dim=1)


def _gamma_rest(log_x: Tensor) -> Tensor:
    """``log Gamma(x) - x log x + x`` of x = exp(log_x): Stirling's series from 30 on (error below 1e-12), else direct.

    Below e^-30, where x underflows nothing yet, log Gamma(x) is -log x.
    """
    large = log_x > math.log(30.0)
    far = torch.where(large, log_x, math.log(30.0))
    inverse = (-far).exp()
    series = 0.5 * (math.log(2 * math.pi) - far) + inverse / 12 - inverse.pow(3) / 360 + inverse.pow(5) / 1260
    near = torch.where(large, 0.0, log_x)
    x = near.clamp_min(-30.0).exp()
    # Gamma(x) = Gamma(x + 1) / x keeps small x exact, and its derivative finite
    direct = torch.lgamma(x + 1) - near - x * near.clamp_min(-30.0) + x
    return torch.where(large, series, direct)
