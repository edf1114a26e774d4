"""KL divergence inside a group of outcomes, and the group's mass: what decoupled losses are made of.

Legend: n rows, X outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill_core.types import LOG_FLOOR


@dataclass(frozen=True)
class GroupKL:
    """A group of outcomes on both sides.

    Args:
        teacher_n: [n] log of the group's mass under the teacher; log 1e-30 where it is 0.
        student_n: [n] the same of the student.
        inside_n: [n] KL(p / P, q / Q) over the group in nat, P and Q its masses; 0 where P = 0.
    """

    teacher_n: Tensor
    student_n: Tensor
    inside_n: Tensor

    def term(self) -> Tensor:
        """[n] P (log P - log Q): the group as one outcome of a forward KL; 0 where P = 0."""
        gap_n = self.teacher_n.exp() * (self.teacher_n - self.student_n)
        return torch.where(self.teacher_n > LOG_FLOOR, gap_n, 0.0)


def group_kl(teacher_nX: Tensor, student_nX: Tensor, group_nX: Tensor) -> GroupKL:
    """Mass and inner KL of a group; outcomes impossible on both sides (padding) do not belong to it.

    Args:
        teacher_nX: [n, X] log-probabilities, log 1e-30 for 0.
        student_nX: [n, X] log-probabilities, finite.
        group_nX: [n, X] bool, which outcomes form the group.

    >>> import torch
    >>> p, q = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.5, 0.4, 0.1]]).log()
    >>> found = group_kl(p, q, torch.tensor([[False, True, True]]))
    >>> round(found.inside_n.item(), 4), round(found.term().item(), 4)
    (0.1046, 0.0)
    """
    possible_nX = group_nX & (teacher_nX > LOG_FLOOR)
    seen_nX = group_nX & ((teacher_nX > LOG_FLOOR) | (student_nX > LOG_FLOOR))
    teacher_n, student_n = _log_mass(teacher_nX, possible_nX), _log_mass(student_nX, seen_nX)
    gap_nX = (teacher_nX - teacher_n[:, None]) - (student_nX - student_n[:, None])
    share_nX = torch.exp(teacher_nX - teacher_n[:, None])
    return GroupKL(teacher_n, student_n, torch.where(possible_nX, share_nX * gap_nX, 0.0).sum(-1))


def _log_mass(logp_nX: Tensor, members_nX: Tensor) -> Tensor:
    """[n] logsumexp over the members; log 1e-30 for none, without a gradient."""
    none_n1 = ~members_nX.any(-1, keepdim=True)
    mass_n = torch.where(members_nX | none_n1, logp_nX, -torch.inf).logsumexp(-1)
    return torch.where(none_n1.squeeze(-1), LOG_FLOOR, mass_n)
