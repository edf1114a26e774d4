"""MiniLLM: reverse KL between whole sequences, by policy gradient with variance controls.

Legend: N rows of a micro-batch, n rows of a chunk, B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext
from distill_core.simplex import check_same_rows, on_simplex
from distill_core.types import RowInfo, RowTarget, SupportLogits, TeacherSignals, TokenBatch
from distill_objectives.rollouts.members import NUMBERS, STUDENT
from distill_objectives.rollouts.options import MiniLLMOptions


class MiniLLM:
    """Gradient of ``KL(q || p)`` over whole responses, summed over the student's tokens (MiniLLM, arXiv 2306.08543).

    With ``r_t = log p(y_t) - log q(y_t)`` and ``R_t = sum_{t' >= t} r_t'`` the policy gradient is
    ``-E sum_t (R_t - 1) grad log q(y_t)``. Its three variance controls, each an option:

    - ``single_step``: the term of ``r_t`` itself is replaced by its exact expectation, the reverse KL of the token's
      distributions (on the teacher's support and the tail), so that only ``R_{t+1}`` is sampled;
    - teacher-mixed sampling (``teacher_mix`` of the rollout) with ``importance`` weights. ``token``:
      ``q(y_t) / b(y_t)``, b the distribution it was drawn from, the paper's approximation; ``sequence``: the product
      over the prefix, on each reward, which is unbiased; ``none``;
    - ``length_norm``: ``R_{t+1}`` divided by the number of tokens it sums.

    The value is the part computed exactly (``single_step``), or the sampled ``-w_t r_t``; the rest has a gradient
    alone. Rows that the student did not write count nothing. On batches without a rollout (held-out ones) it is the
    reverse KL of every token.

    Args:
        options: the three controls.
    """

    properties: Mapping[str, bool] = {
        "zero_at_equality": False, "nonnegative": False, "lower_bound": False, "exact_gradient": False
    }  # fmt: skip

    def __init__(self, options: MiniLLMOptions) -> None:
        self.options = options

    def build(self, ctx: BuildContext) -> None:
        """
        Raises:
            TrainingError: a training without a rollout.
        """
        if ctx.rollout is None:
            raise TrainingError(
                "minillm learns from sequences that the student writes while it trains, but the training has no "
                "rollout: add `rollout: {use: on-policy, teacher_mix: 0.2}` to train"
            )

    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (1.0,)

    def count(self, batch: TokenBatch) -> float:
        """Rows of the student's sequences; all rows of a batch that no rollout made."""
        source_B = batch.per_sequence.get("source")
        rows = batch.rows()
        if source_B is None:
            return float(len(rows))
        return float((source_B[rows.sequence_N] == STUDENT).sum())

    def prepare(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Mapping[str, Tensor]:
        """Factors of every row: ``now`` of the token's own divergence, ``later`` of the gradient of its log q.

        Raises:
            TrainingError: a rollout that does not say what the student, the teacher and the sampler gave its tokens.
        """
        if "source" not in rows.extra:
            ones_N = torch.ones(len(rows.labels_N), device=rows.labels_N.device)
            return {"now": ones_N, "later": torch.zeros_like(ones_N)}
        own_N = rows.extra["source"] == STUDENT
        known = {name: _known(rows.extra, name, own_N) for name in NUMBERS}
        grid = _Grid(rows, own_N)
        reward_BT = grid.lay(known["teacher_logp"] - known["student_logp"])
        ratio_BT = grid.lay(known["student_logp"] - known["behaviour_logp"])  # logarithm
        now_BT, later_BT = factors(reward_BT, ratio_BT, grid.mask_BT, self.options)
        return {"now": grid.pick(now_BT).float(), "later": grid.pick(later_BT).float()}

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] values, see the class."""
        if target is not None:
            check_same_rows(support, target)
        now_n, later_n = (rows.extra[name].to(support.tail_NT.dtype) for name in ("now", "later"))
        logp_n = -support.cross_entropy()
        score_n = -later_n * (logp_n - logp_n.detach())
        if not self.options.single_step:
            return score_n + now_n
        if target is None:
            raise ValueError("minillm compares with a teacher, but no target was given")
        teacher_nK1, student_nK1 = on_simplex(target, support, 1.0)
        divergence_n = (student_nK1.exp() * (student_nK1 - teacher_nK1)).sum(-1)
        return now_n * divergence_n + score_n


def factors(reward_BT: Tensor, ratio_BT: Tensor, mask_BT: Tensor, options: Any) -> tuple[Tensor, Tensor]:
    """``now`` and ``later`` on the grid of sequences and positions.

    Args:
        reward_BT: r_t, 0 off the mask.
        ratio_BT: log of q / b of each token, 0 off the mask.
        mask_BT: which positions are rows of a response.
        options: ``single_step``, ``length_norm``, ``importance``.

    Returns:
        ``single_step``: the weight of each token's exact divergence, and the weighted return behind it. Without it:
        ``-w_t r_t``, a number without gradient, and the weighted return from the token on, less its weight.

    >>> reward = torch.tensor([[1.0, 2.0, 4.0]])
    >>> options = MiniLLMOptions(importance="none", length_norm=False)
    >>> factors(reward, torch.zeros(1, 3), torch.ones(1, 3), options)[1]
    tensor([[6., 4., 0.]])
    """
    if options.importance == "sequence":
        weight_BT = ratio_BT.cumsum(dim=1).exp()
        before_BT = (ratio_BT.cumsum(dim=1) - ratio_BT).exp()
        future_BT = _behind(weight_BT * reward_BT)
    else:
        weight_BT = ratio_BT.exp() if options.importance == "token" else torch.ones_like(ratio_BT)
        before_BT = weight_BT
        future_BT = weight_BT * _behind(reward_BT)
    if options.length_norm:
        future_BT = future_BT / _behind(mask_BT.to(reward_BT.dtype)).clamp_min(1)
    if options.single_step:
        return before_BT * mask_BT, future_BT * mask_BT
    own_BT = weight_BT * reward_BT
    return -own_BT * mask_BT, (own_BT + future_BT - weight_BT) * mask_BT


def _behind(values_BT: Tensor) -> Tensor:
    """Sum over the later positions."""
    return values_BT.flip(1).cumsum(dim=1).flip(1) - values_BT


def _known(extra: Mapping[str, Tensor], name: str, own_N: Tensor) -> Tensor:
    """[N] numbers of the student's rows, float64; 0 elsewhere."""
    value_N = extra.get(name)
    if value_N is None or bool(torch.isnan(value_N[own_N]).any()):
        how = "set rollout.teacher_mix above 0, or rollout.score: true" if name == "teacher_logp" else "note it"
        raise TrainingError(
            f"minillm reads {name} of the tokens that the student wrote, and the rollout does not give it: {how}"
        )
    return torch.where(own_N, value_N.double(), 0.0)


class _Grid:
    """Rows laid out by sequence and position, so that sums run along sequences."""

    def __init__(self, rows: RowInfo, own_N: Tensor) -> None:
        self.at = (rows.sequence_N, rows.position_N)
        empty = not len(rows.labels_N)
        self.shape = (0, 0) if empty else (int(rows.sequence_N.max()) + 1, int(rows.position_N.max()) + 1)
        self.mask_BT = self.lay(own_N.double())

    def lay(self, values_N: Tensor) -> Tensor:
        grid_BT = values_N.new_zeros(self.shape)
        grid_BT[self.at] = values_N
        return grid_BT

    def pick(self, values_BT: Tensor) -> Tensor:
        return values_BT[self.at]
