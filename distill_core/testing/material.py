"""Small random signals in float64 that objectives are tested with.

Legend: B sequences, T positions, N rows, V vocabulary, D hidden, K support size, M temperatures, L layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from distill_core import ops
from distill_core.interfaces import BuildContext
from distill_core.registry import Registry
from distill_core.types import IGNORE, RowInfo, RowTarget, TeacherSignals, TokenBatch

TOTAL_STEPS = 10
STEP = 3


def exact_target(logits_NV: Tensor, ids_NK: Tensor, temperatures: tuple[float, ...]) -> RowTarget:
    """The exact sparse target on a support, by the definition: ``tail = logsumexp(z_v / t, v not in ids)``."""
    held_NV = torch.zeros_like(logits_NV, dtype=torch.bool)
    rows_NK = torch.arange(len(ids_NK))[:, None].expand_as(ids_NK)
    held_NV[rows_NK[ids_NK >= 0], ids_NK[ids_NK >= 0]] = True
    tails = [(logits_NV / t).masked_fill(held_NV, -math.inf).logsumexp(1) for t in temperatures]
    return RowTarget(
        kind="exact",
        ids_NK=ids_NK,
        temperatures=temperatures,
        logits_NK=logits_NV.gather(1, ids_NK.clamp_min(0)),
        tail_NM=torch.stack(tails, dim=1),
    )


@dataclass(frozen=True)
class Rows:
    """N rows of a teacher and a student.

    Args:
        teacher_NV: teacher logits.
        hidden_ND: the student's hidden states before its head.
        weight_VD: the student's head.
        ids_NK: support of the teacher's target; one entry of the last row is padding.
        info: labels and places of the rows.
    """

    teacher_NV: Tensor
    hidden_ND: Tensor
    weight_VD: Tensor
    ids_NK: Tensor
    info: RowInfo

    @property
    def student_NV(self) -> Tensor:
        return self.hidden_ND @ self.weight_VD.T

    def with_support(self, ids_NK: Tensor) -> Rows:
        return replace(self, ids_NK=ids_NK)


def random_rows(seed: int, *, n_rows: int = 5, vocabulary: int = 11, width: int = 4, k: int = 3) -> Rows:
    """Rows with peaked and flat distributions; the support is no top-k, and holds every label."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scale_N1 = torch.linspace(0.5, 4.0, n_rows, dtype=torch.float64)[:, None]
    ids_NK = torch.stack([torch.randperm(vocabulary, generator=generator)[:k] for _ in range(n_rows)])
    labels_N = ids_NK[:, 0].clone()
    if k > 1 and k < vocabulary:
        ids_NK[-1, -1] = -1
    info = RowInfo(
        labels_N=labels_N,
        sequence_N=torch.arange(n_rows) // 3,
        position_N=torch.arange(n_rows) % 3,
        step=STEP,
        total_steps=TOTAL_STEPS,
    )
    return Rows(scale_N1 * normal(n_rows, vocabulary), normal(n_rows, width), normal(vocabulary, width), ids_NK, info)


def random_batch(seed: int, *, vocabulary: int = 11, n_sequences: int = 3, length: int = 6) -> TokenBatch:
    """A padded batch with some labels masked: the last sequence is shorter, and the first tokens are a prompt."""
    generator = torch.Generator().manual_seed(seed)
    input_ids_BT = torch.randint(0, vocabulary, (n_sequences, length), generator=generator)
    attention_mask_BT = torch.ones_like(input_ids_BT)
    attention_mask_BT[-1, length - 2 :] = 0
    labels_BT = input_ids_BT.masked_fill(attention_mask_BT == 0, -100)
    labels_BT[0, :3] = -100
    return TokenBatch(
        input_ids_BT=input_ids_BT,
        attention_mask_BT=attention_mask_BT,
        labels_BT=labels_BT,
        keys=tuple(bytes([index]) * 16 for index in range(n_sequences)),
        documents=tuple(f"document-{index}" for index in range(n_sequences)),
    )


def prepared(objective: Any, rows: Rows, target: RowTarget | None) -> Rows:
    """The rows with what the objective's ``prepare`` says of them, if it has one; the batch says nothing of its own."""
    if not hasattr(objective, "prepare"):
        return rows
    at = (rows.info.sequence_N, rows.info.position_N + 1)
    shape = (int(at[0].max()) + 1, int(at[1].max()) + 1)
    labels_BT = torch.full(shape, IGNORE).index_put(at, rows.info.labels_N)
    batch = TokenBatch(
        labels_BT.clamp_min(0), torch.ones_like(labels_BT), labels_BT, keys=tuple(bytes(16) for _ in range(shape[0]))
    )
    extra = objective.prepare(batch, TeacherSignals(target), rows.info)
    return replace(rows, info=replace(rows.info, extra=dict(extra)))


class TinyStudent(nn.Module):
    """Stands in for a student: a config with widths and depths, and one parameter."""

    def __init__(self, *, width: int, n_layers: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width, num_hidden_layers=n_layers, num_attention_heads=2)
        self.head = nn.Linear(width, 11, bias=False)


def build_context(
    registry: Registry, *, student_width: int = 4, teacher_width: int = 6, n_layers: int = 2
) -> BuildContext:
    """What an objective's ``build(ctx)`` gets: a student of width 4 and a teacher of width 6, two layers each, and
    something that stands for a rollout."""
    config = SimpleNamespace(hidden_size=teacher_width, num_hidden_layers=n_layers, num_attention_heads=2)
    return BuildContext(
        student=TinyStudent(width=student_width, n_layers=n_layers),
        teacher_config=config,
        total_steps=TOTAL_STEPS,
        seed=0,
        build=registry.build,
        rollout=SimpleNamespace(),
    )


def temperatures_of(objective: Any) -> tuple[float, ...]:
    """Temperatures an objective reads at the step of :func:`random_rows`; 1 if it does not say."""
    ask = getattr(objective, "temperatures", None)
    return (1.0,) if ask is None else tuple(float(t) for t in ask(STEP, TOTAL_STEPS))


def row_values(objective: Any, rows: Rows, student_NV: Tensor, target: RowTarget | None) -> Tensor:
    """``objective.rows`` on logits that exist: [N]."""
    support = ops.support_logits(
        student_NV,
        rows.ids_NK if target is None else target.ids_NK,
        labels_N=rows.info.labels_N,
        temperatures=temperatures_of(objective),
        extras=tuple(getattr(objective, "extras", ())),
    )
    result: Tensor = objective.rows(support, target, rows.info)
    return result


def finite_difference_error(function: Any, at: Tensor, *, step: float, directions: int, seed: int = 0) -> float:
    """Largest relative gap between the gradient and central differences of the value along random directions."""
    point = at.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(function(point), point)
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for _ in range(directions):
        direction = torch.randn(at.shape, generator=generator, dtype=torch.float64).to(at.dtype)
        with torch.no_grad():
            rise = function(at + step * direction).double() - function(at - step * direction).double()
        numeric = float(rise) / (2 * step)
        analytic = float((gradient.double() * direction.double()).sum())
        worst = max(worst, abs(numeric - analytic) / max(1e-3, abs(numeric), abs(analytic)))
    return worst
