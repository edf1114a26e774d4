"""The label, read with the teacher's prediction as a prior: KD as a maximum a posteriori estimate.

Legend: n rows of a chunk, K support size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.simplex import check_same_rows, on_simplex
from distill_core.types import LOG_FLOOR, RowInfo, RowTarget, SupportLogits, TeacherSignals, TokenBatch
from distill_objectives.uncertainty_options import LabelPosteriorOptions


class LabelPosterior:
    """Cross-entropy against ``(a p + onehot(label)) / (a + 1)``, minus the entropy part that is known of the teacher.

    Derivation: let the row's categorical q have the prior ``Dirichlet(1 + a p)``, whose density is ``~ prod_v
    q_v^(a p_v)``: the teacher's p is its mode and a counts how many observations it is worth. One label y is observed.
    Then ``log posterior = a sum_v p_v log q_v + log q_y + const``, whose mode is ``(a p + onehot(y)) / (a + 1)``; the
    student minimises ``-(log posterior) / (a + 1)``. With one a for all rows that is the usual sum of soft and hard
    cross-entropy with weight ``a / (a + 1)`` on the teacher; with ``strength: ensemble`` a differs by row.

    ``ensemble``: a is read off the disagreement of several teachers by matching moments. Of a Dirichlet with mean p and
    precision s, ``Var q_c = p_c (1 - p_c) / (s + 1)``, so ``s = sum_c p_c (1 - p_c) / ensemble_variance - 1``; a is
    that, inside ``[least, most]``. Teachers that disagree are a weak prior, and the label speaks.

    Args:
        options: ``strength``, ``least``, ``most``, ``view``. Temperature is 1: a prior is no softened distribution.

    >>> from distill_core import ops
    >>> ids, zeros = torch.tensor([[0]]), torch.tensor([0])
    >>> target = RowTarget("exact", ids, (1.0,), torch.zeros(1, 1), torch.zeros(1, 1))  # p = [1/2, the rest 1/2]
    >>> support = ops.support_logits(torch.zeros(1, 4), ids, labels_N=zeros)  # q = 1/4 each
    >>> objective = LabelPosterior(LabelPosteriorOptions(strength=1.0))
    >>> objective.rows(support, target, RowInfo(zeros, zeros, zeros))  # (KL(p || q) + log 4) / 2
    tensor([0.7651])
    """

    properties: Mapping[str, bool] = {"exact_gradient": True, "nonnegative": True, "lower_bound": True}

    def __init__(self, options: LabelPosteriorOptions) -> None:
        self.options = options

    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (1.0,)

    def view(self, target: RowTarget) -> RowTarget:
        return target.head() if self.options.view == "head" else target

    def prepare(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Mapping[str, Tensor]:
        """``strength`` [N] where it is read off the ensemble."""
        if self.options.strength != "ensemble":
            return {}
        variance_N = signals.extra.get("ensemble_variance")
        if variance_N is None or signals.target is None:
            raise SignalError(
                "label-posterior: strength: ensemble needs ensemble_variance, which one teacher alone does not give: "
                "mix several with train.aggregate, use the teacher `ensemble`, or give strength as a number"
            )
        return {"prior_strength": self.ensemble_strength(signals.target, variance_N)}

    def ensemble_strength(self, target: RowTarget, variance_N: Tensor) -> Tensor:
        """[N] precision of the Dirichlet with the mixture's mean and the ensemble's total variance, clamped."""
        p_NK1 = target.log_probs(1.0).double().exp()
        spread_N = (p_NK1 * (1 - p_NK1)).sum(dim=1)
        strength_N = spread_N / variance_N.double().clamp_min(1e-30) - 1
        return strength_N.clamp(self.options.least, self.options.most).to(variance_N.dtype)

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] values in nat: ``(a KL(p || q) - log q_label) / (a + 1)``."""
        if target is None:
            raise ValueError("label-posterior takes the teacher as a prior, but no target was given")
        check_same_rows(support, target)
        hard_n = support.cross_entropy()
        soft_n = self._soft(support, target)
        if self.options.strength != "ensemble":
            strength = float(self.options.strength)
            return (strength * soft_n + hard_n) / (strength + 1)
        strength_n = rows.extra["prior_strength"].to(hard_n.dtype)
        return (strength_n * soft_n + hard_n) / (strength_n + 1)

    @staticmethod
    def _soft(support: SupportLogits, target: RowTarget) -> Tensor:
        """[n] KL(teacher || student) on the support and the tail; with sampled weights its unbiased estimate."""
        if target.kind == "sampled":
            assert target.weights_NK is not None
            student_nK = support.log_probs(1.0)[:, :-1]
            student_nK = torch.where(target.ids_NK >= 0, student_nK, torch.zeros_like(student_nK))
            cross_n = -(target.weights_NK.to(student_nK.dtype) * student_nK).sum(dim=1)
            return cross_n if target.entropy_N is None else cross_n - target.entropy_N.to(cross_n.dtype)
        teacher_nK1, student_nK1 = on_simplex(target, support, 1.0)
        possible_nK1 = teacher_nK1 > LOG_FLOOR
        return torch.where(possible_nK1, teacher_nK1.exp() * (teacher_nK1 - student_nK1), 0.0).sum(dim=1)
