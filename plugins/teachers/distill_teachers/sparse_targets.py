"""From a teacher's hidden states (or logits) at N rows to a sparse target.

Legend: N rows, n rows of a chunk, V head rows, W effective vocabulary, D hidden, K support, M temperatures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill_core import ops
from distill_core.errors import SignalError
from distill_core.ops.head import Head, compute_dtype
from distill_core.ops.row_chunks import default_rows, row_chunks
from distill_core.types import Needs, RowTarget, SparseSpec

DEFAULT_SUPPORT = 64
"""Entries of an exact target when the caller says nothing about sparsity."""

LogitsOfRows = Callable[[slice], Tensor]
"""Gives the final logits [n, V] of a slice of the rows."""


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A head ``z = softcap * tanh(logit_scale * (h W^T + b) / softcap)``."""

    weight_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    logit_scale: float = 1.0


def from_hidden(
    hidden_ND: Tensor, head: LinearHead, spec: SparseSpec, *, valid_vocab: int, row_keys_N: Tensor
) -> RowTarget:
    """The target of rows whose hidden states are known; [N, V] is never held for all N."""
    if spec.ids_NK is not None:
        found = ops.linear_support_logits(
            hidden_ND,
            head.weight_VD[:valid_vocab],
            spec.ids_NK.to(hidden_ND.device),
            bias=None if head.bias_V is None else head.bias_V[:valid_vocab],
            temperatures=spec.temperatures,
            softcap=head.softcap,
            logit_scale=head.logit_scale,
        )
        return _exact(spec.ids_NK.to(hidden_ND.device), found.support_NK, found.tail_NT, spec)
    if spec.method == "topk":
        top = ops.linear_topk_logits(
            hidden_ND,
            head.weight_VD,
            spec.k,
            temperatures=spec.temperatures,
            bias=head.bias_V,
            softcap=head.softcap,
            logit_scale=head.logit_scale,
            valid_vocab=valid_vocab,
        )
        return _exact(top.ids_NK, top.logits_NK, top.tail_NT, spec)
    dtype = compute_dtype(hidden_ND, head.weight_VD)
    fused = Head(head.weight_VD, head.bias_V, head.softcap, head.logit_scale, dtype)
    return from_logits(
        lambda rows: fused.logits(hidden_ND[rows]),
        len(hidden_ND),
        spec,
        vocabulary=head.weight_VD.shape[0],
        valid_vocab=valid_vocab,
        row_keys_N=row_keys_N,
    )


def from_logits(
    logits_of: LogitsOfRows, n_rows: int, spec: SparseSpec, *, vocabulary: int, valid_vocab: int, row_keys_N: Tensor
) -> RowTarget:
    """The target of rows whose logits are made chunk by chunk."""
    step = default_rows(vocabulary, bytes_per_logit=4)
    pieces = row_chunks(n_rows, step) if n_rows else [slice(0, 0)]
    return concatenate(
        [_chunk(logits_of(rows)[:, :valid_vocab], _cut(spec, rows), row_keys_N[rows]) for rows in pieces]
    )


def _cut(spec: SparseSpec, rows: slice) -> SparseSpec:
    return spec if spec.ids_NK is None else replace(spec, ids_NK=spec.ids_NK[rows])


def concatenate(targets: list[RowTarget]) -> RowTarget:
    """Targets of one kind and width below each other."""

    def joined(name: str) -> Tensor | None:
        parts = [getattr(target, name) for target in targets]
        return None if parts[0] is None else torch.cat(parts)

    names = ("logits_NK", "tail_NM", "weights_NK", "entropy_N", "threshold_N")
    ids_NK = torch.cat([target.ids_NK for target in targets])
    return RowTarget(targets[0].kind, ids_NK, targets[0].temperatures, **{name: joined(name) for name in names})


def _chunk(logits_nW: Tensor, spec: SparseSpec, row_keys_n: Tensor) -> RowTarget:
    if spec.ids_NK is not None:
        ids_nK = spec.ids_NK.to(logits_nW.device)
        found = ops.support_logits(logits_nW, ids_nK, temperatures=spec.temperatures)
        return _exact(ids_nK, found.support_NK, found.tail_NT, spec)
    if spec.method == "topk":
        top = ops.topk_logits(logits_nW, spec.k, temperatures=spec.temperatures)
        return _exact(top.ids_NK, top.logits_NK, top.tail_NT, spec)
    (temperature,) = spec.temperatures
    ids_nK, weights_nK = ops.sample_support(
        logits_nW,
        spec.k,
        method=spec.method,
        temperature=temperature,
        seed=spec.seed,
        row_keys_N=row_keys_n.to(logits_nW.device),
    )
    # One more read of the logits: exact entropy and the log-probabilities of what was drawn, without [n, W] of them.
    drawn = ops.support_logits(logits_nW, ids_nK, temperatures=spec.temperatures, extras=("entropy",))
    assert drawn.entropy_NT is not None
    threshold_n = None
    if spec.method == "threshold":
        threshold_n = sampling_threshold(drawn.log_probs(temperature)[:, :-1], ids_nK, weights_nK)
    return RowTarget(
        kind="sampled",
        ids_NK=ids_nK.long(),
        temperatures=spec.temperatures,
        weights_NK=weights_nK.float(),
        entropy_N=drawn.entropy_NT[:, 0].float(),
        threshold_N=threshold_n,
    )


def _exact(ids_NK: Tensor, logits_NK: Tensor, tail_NT: Tensor, spec: SparseSpec) -> RowTarget:
    return RowTarget("exact", ids_NK.long(), spec.temperatures, logits_NK=logits_NK.float(), tail_NM=tail_NT.float())


def sampling_threshold(logp_nK: Tensor, ids_nK: Tensor, weights_nK: Tensor) -> Tensor:
    """[n] c of threshold sampling: the weight that every entry with p < c has; 0 where the row is kept whole.

    Kept entries have weight max(p, c), so c is the smallest weight of a row from which something was left out.
    """
    kept_nK = ids_nK >= 0
    probability_nK = logp_nK.exp() * kept_nK
    smallest_n = weights_nK.masked_fill(~kept_nK, torch.inf).amin(dim=1).float()
    whole_n = (weights_nK <= probability_nK * (1 + 1e-5)).all(dim=1)
    return torch.where(whole_n, torch.zeros_like(smallest_n), smallest_n)


def single_draws(spec: SparseSpec) -> list[SparseSpec]:
    """One spec per independent sample; the first has the spec's own seed, the others seeds hashed from it.

    >>> [one.seed for one in single_draws(SparseSpec("threshold", 4, seed=5))]
    [5]
    """
    seeds = [spec.seed]
    for draw in range(1, spec.draws):
        digest = hashlib.blake2b(f"{spec.seed}:{draw}".encode(), digest_size=8).digest()
        seeds.append(int.from_bytes(digest, "little") >> 1)
    return [replace(spec, seed=seed, draws=1) for seed in seeds]


def wanted_spec(needs: Needs, sparse: SparseSpec | None, *, valid_vocab: int) -> SparseSpec:
    """What the caller asks for, with the temperatures that objectives read; default: the 64 largest entries, exact.

    Raises:
        SignalError: a temperature that the sample is not drawn at.
    """
    wanted = needs.temperatures or ()
    if sparse is None:
        return SparseSpec("topk", min(DEFAULT_SUPPORT, valid_vocab), temperatures=wanted or (1.0,))
    if sparse.method == "topk":
        return replace(sparse, temperatures=tuple(dict.fromkeys((*sparse.temperatures, *wanted))))
    if set(wanted) - set(sparse.temperatures):
        raise SignalError(
            f"temperatures {list(wanted)} were asked of a sample drawn at {list(sparse.temperatures)}, which "
            "serves that one alone; use method: topk, or draw at the temperature of the objective"
        )
    return sparse


def check_spec(spec: SparseSpec, *, valid_vocab: int, label: str) -> None:
    """Refuse what cannot be drawn.

    Raises:
        SignalError: a support larger than the vocabulary, several temperatures for one sample, or draws of what is no
            sample.
    """
    if spec.draws < 1 or (spec.method == "topk" and spec.draws != 1):
        raise SignalError(
            f"{spec.draws} draws of method {spec.method} were asked of the teacher {label}; topk draws nothing, the "
            "sampled methods at least once"
        )
    if spec.ids_NK is not None:
        if spec.method != "topk":
            raise SignalError(
                f"the teacher {label} was given ids with method {spec.method}; a target on given ids is exact: topk"
            )
        return
    if spec.method != "multinomial" and spec.k > valid_vocab:
        raise SignalError(
            f"the teacher {label} was asked for k = {spec.k} entries, but its vocabulary has {valid_vocab} tokens; "
            "use a smaller k"
        )
    if spec.method != "topk" and len(spec.temperatures) != 1:
        raise SignalError(
            f"method {spec.method} draws at one temperature, but {list(spec.temperatures)} were asked of the teacher "
            f"{label}; capture once per temperature, or use method: topk"
        )
