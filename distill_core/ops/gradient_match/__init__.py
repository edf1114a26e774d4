"""Distance between two lists of gradients: the loss of gradient matching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...shapes import Scalar
from .. import cpu_library, cuda_library
from ..arguments import check_choice, check_device
from ..dispatch import Impl, declare, offer, select
from ..transforms import refuse_transforms
from .gradient_in_forward import MatchInForward, wanted
from .ops import gradient_match_op
from .reference import Rule

__all__ = ["gradient_match"]

OP = "gradient_match"
declare(OP)
offer(OP, "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
offer(OP, "cuda", cuda_library.available, dtypes=cuda_library.DTYPES)


def _check_list(name: str, tensors: Sequence[Tensor]) -> None:
    if isinstance(tensors, Tensor):
        raise TypeError(f"{OP}: {name} must be a list of tensors, one per parameter; got one tensor, pass [{name}]")
    if not isinstance(tensors, tuple | list):
        raise TypeError(
            f"{OP}: {name} must be a list of tensors, one per parameter; got a {type(tensors).__name__}, pass "
            f"list({name}), of a mapping its values()"
        )
    for i, x in enumerate(tensors):
        if not isinstance(x, Tensor):
            hint = "; drop parameters without gradient from both lists" if x is None else ""
            raise TypeError(f"{OP}: {name}[{i}] must be a torch.Tensor; got {type(x).__name__}{hint}")
        if not x.is_floating_point():
            raise TypeError(f"{OP}: {name}[{i}] must be floating point; got {x.dtype}")


def _check_pairs(synthetic: Sequence[Tensor], real: Sequence[Tensor]) -> None:
    _check_list("synthetic", synthetic)
    _check_list("real", real)
    if len(synthetic) != len(real):
        raise ValueError(
            f"{OP}: synthetic and real must be of one length, one tensor per parameter in the same order; "
            f"got {len(synthetic)} and {len(real)}"
        )
    for i, (a, b) in enumerate(zip(synthetic, real, strict=True)):
        if a.shape != b.shape:
            raise ValueError(
                f"{OP}: synthetic[{i}] is {list(a.shape)} and real[{i}] is {list(b.shape)}: they must be gradients of "
                f"one parameter"
            )
        check_device(OP, f"synthetic[{i}]", a, synthetic[0])
        check_device(OP, f"real[{i}]", b, synthetic[0])
        if b.requires_grad:
            raise ValueError(f"{OP}: real[{i}] requires grad, and real gets no gradient: pass real[{i}].detach()")


def _check_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if weights is None:
        return [1.0] * count
    if isinstance(weights, Tensor) or any(isinstance(w, Tensor) for w in weights):
        raise TypeError(f"{OP}: weights must be Python numbers, one per tensor; got a tensor: pass weights.tolist()")
    found = [float(w) for w in weights]
    if len(found) != count:
        raise ValueError(f"{OP}: weights must hold one number per tensor, {count}; got {len(found)}")
    if not all(0 <= w < math.inf for w in found):
        raise ValueError(f"{OP}: weights must be finite and at least 0; got {found}")
    return found


def _one_dtype(synthetic: list[Tensor], real: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The kernels take one dtype: mixed lists are promoted to the widest."""
    wide, *others = {x.dtype for x in (*synthetic, *real)}
    if not others:
        return synthetic, real
    for dtype in others:
        wide = torch.promote_types(wide, dtype)
    return [x.to(wide) for x in synthetic], [x.to(wide) for x in real]


def gradient_match(
    synthetic: Sequence[Tensor],
    real: Sequence[Tensor],
    *,
    distance: Literal["cosine", "l2", "l2+l1"] = "cosine",
    group: Literal["row", "tensor", "global"] = "row",
    eps: float = 1e-12,
    eps_mode: Literal["clamp", "added"] = "clamp",
    weights: Sequence[float] | None = None,
    include_vectors: bool = False,
    impl: Impl = "auto",
) -> Scalar:
    """How far the gradients of synthetic data are from those of real data. Twice differentiable in `synthetic`.

    `cosine`: `sum over rows r of 1 - <a_r, b_r> / den_r` (Dataset Condensation, arXiv 2006.05929, eq. 9 and its
    appendix: one row per output neuron). `l2`: `sum (a - b)^2`; `l2+l1`: that plus `sum |a - b|`.

    Args:
        synthetic: tensors, one per parameter, any shapes, floating point.
        real: as many of the same shapes; must not require grad.
        distance: "cosine" (default), "l2" or "l2+l1".
        group: what is one vector in the cosine: "row" (default; a weight is `[out, -1]`, and tensors of less than 2
            dimensions are left out unless `include_vectors`), "tensor", or "global" (all tensors together).
        eps: positive. Default 1e-12.
        eps_mode: "clamp" (default): `den = max(|a|, eps) max(|b|, eps)`, and rows that are zero on both sides
            contribute 0; "added": `den = |a| |b| + eps`, the form of Dataset Condensation with its eps of 1e-6.
        weights: a number of at least 0 per tensor, default 1. In the global cosine they weigh each tensor's share of
            `<a, b>`, `|a|^2` and `|b|^2`.
        include_vectors: in group "row", take tensors of less than 2 dimensions as one row each. Default False.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns a scalar, fp32 (fp64 for fp64 inputs), 0 for empty lists. A row of `synthetic` that is exactly zero gets a
    zero gradient in the cosine. Raises `ValueError` or `TypeError` for wrong arguments.

    >>> import torch
    >>> from distill_core import ops
    >>> ops.gradient_match([torch.tensor([[3.0, 0.0]])], [torch.tensor([[0.0, 2.0]])])
    tensor(1.)
    """
    check_choice(OP, "distance", distance, ("cosine", "l2", "l2+l1"))
    check_choice(OP, "group", group, ("row", "tensor", "global"))
    check_choice(OP, "eps_mode", eps_mode, ("clamp", "added"))
    if not 0 < eps < math.inf:
        raise ValueError(f"{OP}: eps must be a positive, finite number; got {eps!r}")
    _check_pairs(synthetic, real)
    refuse_transforms(OP, synthetic)
    shares = _check_weights(weights, len(synthetic))
    if not synthetic:
        return torch.zeros(())
    kept = [i for i, a in enumerate(synthetic) if group != "row" or include_vectors or a.dim() > 1]
    if not kept:
        raise ValueError(
            f"{OP}: no tensor has 2 dimensions or more, and group='row' leaves out the others; pass "
            f"include_vectors=True or group='tensor'"
        )
    a, b = _one_dtype([synthetic[i] for i in kept], [real[i] for i in kept])
    picked = select(OP, impl, a[0].device.type, a[0].dtype)
    chosen_weights = [shares[i] for i in kept]
    rule = Rule(distance, group, float(eps), eps_mode)
    if wanted(a, rule, picked):
        once: Tensor = MatchInForward.apply(b, chosen_weights, rule, picked, *a)  # type: ignore[no-untyped-call]
        return once
    value: Tensor = gradient_match_op(a, b, chosen_weights, *rule, picked)[0]
    return value
