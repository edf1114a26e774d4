"""One pass over the head for one micro-batch: every objective of the run at once.

Legend: B sequences, T token positions, N rows (unmasked predictions), n rows of a chunk, D hidden, V vocabulary,
K support size, U size of the union of supports.

Row objectives share one walk over the rows in chunks: the student's exact distribution on the *union* of their
supports is computed once and folded to the support each of them reads. Free-form objectives run beside, on the hidden
states. The result is ``sum_i factor_i * sum_i`` with factors known before the first backward.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distill_core import ops
from distill_core.engine.head import HeadSpec
from distill_core.errors import TrainingError
from distill_core.types import RowIndex, RowInfo, RowTarget, StudentView, SupportLogits, TeacherSignals, TokenBatch


@dataclass(frozen=True)
class Head:
    """The operands of the head for one micro-batch."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    spec: HeadSpec

    @torch.no_grad()
    def most_likely(self, k: int) -> Tensor:
        """[N, k] ids of the student's k most likely tokens."""
        return ops.linear_topk_logits(
            self.hidden_ND.detach(),
            self.weight_VD.detach(),
            min(k, int(self.weight_VD.shape[0])),
            bias=None if self.bias_V is None else self.bias_V.detach(),
            softcap=self.spec.softcap,
            logit_scale=self.spec.logit_scale,
        ).ids_NK


@dataclass(frozen=True)
class ActiveObjective:
    """An objective with its place in this pass.

    Args:
        name: its name in logs.
        objective: the plugin's object.
        fused: True for a row objective.
        factor: what its sum is multiplied by: weight * world size / count over all micro-batches and processes.
        needs_targets: whether it reads the teacher's sparse distribution.
        source: whose signals it reads.
        row_weights: says how much each row counts in it; None: all alike.
    """

    name: str
    objective: Any
    fused: bool
    factor: float
    needs_targets: bool
    source: str = ""
    row_weights: Any = None


@dataclass
class ObjectivePass:
    """Computes the losses of one micro-batch inside the head (a :class:`distill_core.engine.head.HeadPass`).

    Args:
        batch: the micro-batch, on the model's device.
        signals: the teachers' answers by source, on the model's device.
        active: the objectives, in the order of the results.
        step: optimizer step, from 0.
        total_steps: optimizer steps of the run.
        output_hidden_states: ask the decoder for all hidden states.
        output_attentions: ask the decoder for attentions.
        taps: attention projections that free-form objectives read.
        chunk_rows: rows per chunk of the walk over the head; None: the op decides.
        metrics: filled with what free-form objectives report.
    """

    batch: TokenBatch
    signals: Mapping[str, TeacherSignals]
    active: Sequence[ActiveObjective]
    step: int
    total_steps: int
    output_hidden_states: bool = False
    output_attentions: bool = False
    taps: Collection[str] = ()
    chunk_rows: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    def __call__(self, decoded: Any, weight_VD: Tensor, bias_V: Tensor | None, spec: HeadSpec) -> dict[str, Tensor]:
        """``loss`` (scalar, with gradient) and ``sums`` (float64, detached, one per objective)."""
        hidden_BTD = decoded.last_hidden_state
        sums = torch.zeros(len(self.active), dtype=torch.float64, device=hidden_BTD.device)
        terms: list[Tensor] = []
        if any(one.fused for one in self.active):
            terms.append(self._rows_term(hidden_BTD, weight_VD, bias_V, spec, sums))
        for position, one in enumerate(self.active):
            if not one.fused:
                terms.append(self._free_form_term(one, decoded, sums[position]))
        loss = terms[0]
        for term in terms[1:]:
            loss = loss + term.to(loss.dtype)
        return {"loss": loss, "sums": sums}

    def _rows_term(
        self, hidden_BTD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, spec: HeadSpec, sums: Tensor
    ) -> Tensor:
        rows = self.batch.rows()
        hidden_ND, weight_VD, bias_V = _head_operands(rows.select(hidden_BTD), weight_VD, bias_V)
        fused = [(position, one) for position, one in enumerate(self.active) if one.fused]
        views = [self._view(one) for _, one in fused]
        head = Head(hidden_ND, weight_VD, bias_V, spec)
        supports = [self._support(one, view, head) for (_, one), view in zip(fused, views, strict=True)]
        ids_NU = union_of_supports([ids_NK for ids_NK in supports if ids_NK is not None], rows.labels_N)
        loss_fn = self._loss_function(fused, views, supports, ids_NU, rows, sums)
        temperatures = sorted(
            {t for _, one in fused for t in temperatures_of(one.objective, self.step, self.total_steps)}
        )
        extras = sorted({extra for _, one in fused for extra in getattr(one.objective, "extras", ())})
        return ops.sparse_distill_loss(
            hidden_ND,
            weight_VD,
            ids_NU,
            loss_fn,
            labels_N=rows.labels_N,
            temperatures=tuple(temperatures),
            bias=bias_V,
            softcap=spec.softcap,
            logit_scale=spec.logit_scale,
            extras=tuple(extras),
            params=tuple(p for _, one in fused for p in parameters_of(one.objective) if p.requires_grad),
            chunk_rows=self.chunk_rows,
        )

    def _view(self, one: ActiveObjective) -> RowTarget | None:
        target = self._signals(one).target
        if not one.needs_targets or target is None:
            return None
        view = getattr(one.objective, "view", None)
        return target if view is None else view(target)

    def _signals(self, one: ActiveObjective) -> TeacherSignals:
        return self.signals.get(one.source, TeacherSignals())

    @staticmethod
    def _support(one: ActiveObjective, view: RowTarget | None, head: Head) -> Tensor | None:
        """[N, K] ids that an objective reads; None where it reads none."""
        k = getattr(one.objective, "student_support", None)
        return (None if view is None else view.ids_NK) if k is None else head.most_likely(int(k))

    def _loss_function(
        self,
        fused: Sequence[tuple[int, ActiveObjective]],
        views: Sequence[RowTarget | None],
        supports: Sequence[Tensor | None],
        ids_NU: Tensor,
        rows: RowIndex,
        sums: Tensor,
    ) -> Callable[[SupportLogits, slice], Tensor]:
        """``loss_fn(support, rows) -> [n]`` for the op: all row objectives, weighted, on one chunk."""
        info = RowInfo(
            rows.labels_N, rows.sequence_N, rows.position_N, self.step, self.total_steps, self.batch.row_values(rows)
        )
        infos = [self._prepared(one, info) for _, one in fused]
        weights = [self._row_weights(one, rows, info) for _, one in fused]
        folded = [None if ids_NK is None or same_ids(ids_NK, ids_NU) else ids_NK for ids_NK in supports]

        def loss_fn(support: SupportLogits, chunk: slice) -> Tensor:
            total_n: Tensor | None = None
            for (position, one), view, ids_NK, own_info, weights_N in zip(
                fused, views, folded, infos, weights, strict=True
            ):
                weights_n = weights_N[chunk]
                own = support if ids_NK is None else support.fold(ids_NK[chunk])
                values_n = one.objective.rows(own, None if view is None else view[chunk], own_info[chunk])
                if values_n.shape != weights_n.shape:
                    raise TrainingError(
                        f"objective {one.name} returned shape {list(values_n.shape)} for {len(weights_n)} rows; a row "
                        f"objective returns one value per row, shape [{len(weights_n)}]"
                    )
                if support.tail_NT.requires_grad:
                    _check_gradient(one, values_n)
                values_n = values_n * weights_n
                sums[position] += values_n.detach().double().sum()
                total_n = values_n * one.factor if total_n is None else total_n + values_n * one.factor
            assert total_n is not None
            return total_n

        return loss_fn

    def _prepared(self, one: ActiveObjective, info: RowInfo) -> RowInfo:
        """What an objective computes over all rows of the micro-batch, beside what the batch says of them."""
        prepare = getattr(one.objective, "prepare", None)
        if prepare is None:
            return info
        with torch.no_grad():
            values = dict(prepare(self.batch, self._signals(one), info))
        for name, value_N in values.items():
            if value_N.shape[:1] != (len(info.labels_N),):
                raise TrainingError(
                    f"objective {one.name}: prepare() returned {name!r} of shape {list(value_N.shape)}; expected one "
                    f"entry per row, shape [{len(info.labels_N)}] or [{len(info.labels_N)}, ...]"
                )
        return replace(info, extra={**info.extra, **values})

    @torch.no_grad()
    def _row_weights(self, one: ActiveObjective, rows: RowIndex, info: RowInfo) -> Tensor:
        """[N] token weights of the data, times what the objective's ``row_weights`` says."""
        if one.row_weights is None:
            return rows.weights_N
        own_N = one.row_weights.weights(self.batch, self._signals(one), info)
        if tuple(own_N.shape) != (len(rows),) or not bool((torch.isfinite(own_N) & (own_N >= 0)).all()):
            raise TrainingError(
                f"row_weights of objective {one.name} returned {list(own_N.shape)} numbers, smallest "
                f"{float(own_N.min()) if own_N.numel() else 'none'}, for {len(rows)} rows; expected one finite number "
                "from 0 per row"
            )
        weights_N: Tensor = rows.weights_N * own_N.to(rows.weights_N)
        return weights_N

    def _free_form_term(self, one: ActiveObjective, decoded: Any, into: Tensor) -> Tensor:
        hidden_states = decoded.hidden_states if self.output_hidden_states else (decoded.last_hidden_state,)
        view = StudentView(
            hidden_states=hidden_states,
            attentions=decoded.attentions if self.output_attentions else None,
            extra=decoded.taps if self.taps else {},
        )
        batch = self.batch.on_positions(hidden_states[-1].shape[1]) if self.batch.inputs else self.batch
        term = one.objective(view, self._signals(one), batch)
        if term.total.dim() != 0:
            raise TrainingError(
                f"objective {one.name} returned a total of shape {list(term.total.shape)}; a free-form objective "
                "returns one scalar, the sum over whatever its count() counts"
            )
        if hidden_states[-1].requires_grad:
            _check_gradient(one, term.total)
        into += term.total.detach().double()
        self.metrics.update({f"{one.name}.{key}": float(value) for key, value in term.metrics.items()})
        total: Tensor = term.total
        return total * one.factor


def _check_gradient(one: ActiveObjective, values: Tensor) -> None:
    """Raise for a loss cut off from the student, as by `detach()` or numpy: training would go on and learn nothing."""
    if one.factor and not values.requires_grad and bool(values.any()):
        raise TrainingError(
            f"objective {one.name} returned values without a gradient: nothing could be learned from them. Compute "
            "them from the student's tensors in torch, without detach(), item() or torch.no_grad(); an objective "
            "that only watches gets weight: 0"
        )


def _head_operands(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Under autocast on a GPU the head's products run in the autocast dtype, summed in fp32; a CPU stays in fp32."""
    device = hidden_ND.device.type
    if device == "cpu" or not torch.is_autocast_enabled(device):
        return hidden_ND, weight_VD, bias_V
    dtype = torch.get_autocast_dtype(device)
    return hidden_ND.to(dtype), weight_VD.to(dtype), bias_V


def temperatures_of(objective: Any, step: int, total_steps: int) -> tuple[float, ...]:
    """Temperatures a row objective reads at a step; 1.0 if it does not say."""
    ask = getattr(objective, "temperatures", None)
    return (1.0,) if ask is None else tuple(float(t) for t in ask(step, total_steps))


def parameters_of(objective: Any) -> list[torch.nn.Parameter]:
    """Parameters of an objective, as they are now (FSDP swaps them while it gathers)."""
    ask = getattr(objective, "parameters", None)
    return [] if ask is None else list(ask())


def same_ids(first_NK: Tensor, second_NK: Tensor) -> bool:
    """Whether two supports are equal, entry by entry."""
    return first_NK is second_NK or (first_NK.shape == second_NK.shape and bool(torch.equal(first_NK, second_NK)))


def union_of_supports(supports: Sequence[Tensor], labels_N: Tensor) -> Tensor:
    """[N, U] ids of all supports, unique in a row, -1 pads at the end; the first support itself if all are equal.

    Args:
        supports: int tensors [N, K_i], -1 pads; none: U = 0.
        labels_N: gives N and the device where there is no support.

    >>> import torch
    >>> union_of_supports([torch.tensor([[3, 5]]), torch.tensor([[5, -1]])], torch.tensor([0])).tolist()
    [[5, 3]]
    """
    if not supports:
        return labels_N.new_empty(labels_N.shape[0], 0, dtype=torch.int64)
    if all(same_ids(support, supports[0]) for support in supports[1:]):
        return supports[0]
    ids_NU = torch.cat([support.long() for support in supports], dim=1).sort(dim=1, descending=True).values
    repeated = torch.zeros_like(ids_NU, dtype=torch.bool)
    repeated[:, 1:] = ids_NU[:, 1:] == ids_NU[:, :-1]
    ids_NU = ids_NU.masked_fill(repeated, -1).sort(dim=1, descending=True).values
    width = int((ids_NU >= 0).sum(dim=1).max()) if len(ids_NU) else 0
    return ids_NU[:, :width].contiguous()
