"""Ways to compute forward KL from a student's head to a sparse teacher, with gradients of hidden states and weight.

Legend: N rows, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_core import ops


@dataclass(frozen=True)
class Size:
    """Sizes of one problem."""

    rows: int
    vocabulary: int
    hidden: int
    support: int


@dataclass
class Problem:
    """Student head and hidden states that want gradients, and a teacher's top-k with its tail."""

    hidden_ND: Tensor
    weight_VD: Tensor
    ids_NK: Tensor
    logp_NK: Tensor
    tail_logp_N: Tensor

    @classmethod
    def random(cls, size: Size, *, seed: int = 0) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        hidden_ND = torch.randn(size.rows, size.hidden, generator=generator)
        weight_VD = torch.randn(size.vocabulary, size.hidden, generator=generator) * 3 * size.hidden**-0.5
        first_N1 = torch.randint(size.vocabulary, (size.rows, 1), generator=generator)
        stride = size.vocabulary // size.support  # ids of a row are unique and lie all over the vocabulary
        ids_NK = (first_N1 + stride * torch.arange(size.support)) % size.vocabulary
        outcomes_NK1 = torch.randn(size.rows, size.support + 1, generator=generator).log_softmax(1)
        return cls(
            hidden_ND.requires_grad_(),
            weight_VD.requires_grad_(),
            ids_NK,
            outcomes_NK1[:, :-1].contiguous(),
            outcomes_NK1[:, -1].contiguous(),
        )


def plain_torch(problem: Problem) -> Tensor:
    """All logits at once: log-softmax over [N, V], gather the support, tail by a masked logsumexp."""
    logits_NV = problem.hidden_ND @ problem.weight_VD.T
    logq_NV = logits_NV.log_softmax(1)
    logq_NK = logq_NV.gather(1, problem.ids_NK)
    tail_N = logq_NV.scatter(1, problem.ids_NK, -torch.inf).logsumexp(1)
    cross_N = (problem.logp_NK.exp() * (problem.logp_NK - logq_NK)).sum(1)
    return (cross_N + problem.tail_logp_N.exp() * (problem.tail_logp_N - tail_N)).sum()


def linear_sparse_kl(problem: Problem) -> Tensor:
    """The op of that name."""
    return ops.linear_sparse_kl(
        problem.hidden_ND,
        problem.weight_VD,
        problem.ids_NK,
        problem.logp_NK,
        tail_logp_N=problem.tail_logp_N,
        reduction="sum",
    )


def support_logits(problem: Problem) -> Tensor:
    """Support logits, recomputed in the backward pass; any divergence on top."""
    support = ops.linear_support_logits(problem.hidden_ND, problem.weight_VD, problem.ids_NK)
    logp_NK1 = torch.cat([problem.logp_NK, problem.tail_logp_N[:, None]], dim=1)
    return (logp_NK1.exp() * (logp_NK1 - support.log_probs())).sum()


def sparse_distill_loss(problem: Problem) -> Tensor:
    """The trainer's way: any row-wise loss, its gradient taken chunk by chunk in the forward pass."""
    logp_NK1 = torch.cat([problem.logp_NK, problem.tail_logp_N[:, None]], dim=1)

    def loss(support: ops.SupportLogits, rows: slice) -> Tensor:
        return (logp_NK1[rows].exp() * (logp_NK1[rows] - support.log_probs())).sum(1)

    return ops.sparse_distill_loss(problem.hidden_ND, problem.weight_VD, problem.ids_NK, loss)


RIVALS: dict[str, Callable[[Problem], Tensor]] = {
    "plain torch": plain_torch,
    "linear_support_logits": support_logits,
    "linear_sparse_kl": linear_sparse_kl,
    "sparse_distill_loss": sparse_distill_loss,
}
"""The first is the baseline."""


def step(rival: str, problem: Problem) -> float:
    """One forward and backward pass; the loss."""
    problem.hidden_ND.grad = problem.weight_VD.grad = None
    loss = RIVALS[rival](problem)
    loss.backward()
    return loss.item()
