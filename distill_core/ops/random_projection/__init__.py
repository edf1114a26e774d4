"""Johnson-Lindenstrauss projection of per-sample features by random signs that are never stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .. import cpu_library, cuda_library
from ..arguments import check_choice, check_device, check_tensor, check_whole
from ..autocast import exact_arithmetic
from ..dispatch import Impl, declare, offer, select
from ..head import compute_dtype
from ..transforms import values_by_sample
from . import native, reference

__all__ = ["random_projection"]

OP = "random_projection"
declare(OP)
offer(OP, "cpu", cpu_library.available, dtypes=cpu_library.DTYPES)
offer(OP, "cuda", cuda_library.available, dtypes=cuda_library.DTYPES)


@torch.library.custom_op(
    "distill_core::random_projection",
    mutates_args=(),
    schema="(Tensor[] tensors, int dim, int seed, int feature_offset, str impl) -> Tensor",
)
def random_projection_op(tensors: list[Tensor], dim: int, seed: int, feature_offset: int, impl: str) -> Tensor:
    """[n, dim] of matrices [n, F_i] side by side."""
    if impl == "cpu":
        return native.project(tensors, dim, seed, feature_offset)
    if impl == "cuda":
        from . import cuda

        return cuda.project(tensors, dim, seed, feature_offset)
    with exact_arithmetic(tensors[0]):
        return reference.project(tensors, dim, seed, feature_offset)


@random_projection_op.register_fake
def _(tensors: list[Tensor], dim: int, *_: Any) -> Tensor:
    return tensors[0].new_empty(tensors[0].shape[0], dim, dtype=compute_dtype(*tensors))


random_projection_op.register_vmap(values_by_sample(OP, random_projection_op))


def _check_tensors(tensors: Sequence[Tensor]) -> None:
    if not tensors:
        raise ValueError(
            f"{OP}: tensors is empty, so the number of samples is unknown; pass at least one [n, ...] tensor"
        )
    for i, x in enumerate(tensors):
        check_tensor(OP, f"tensors[{i}]", x)
        if not x.is_floating_point():
            raise TypeError(f"{OP}: tensors[{i}] must be floating point; got {x.dtype}")
        if x.dim() == 0 or x.shape[0] != tensors[0].shape[0]:
            raise ValueError(
                f"{OP}: tensors[{i}] must be [n, ...] with the same number of samples n in every tensor; "
                f"got {list(x.shape)}, and tensors[0] is {list(tensors[0].shape)}"
            )
        check_device(OP, f"tensors[{i}]", x, tensors[0])


def random_projection(
    tensors: Tensor | Sequence[Tensor],
    dim: int,
    *,
    seed: int,
    kind: Literal["rademacher"] = "rademacher",
    feature_offset: int = 0,
    impl: Impl = "auto",
) -> Tensor:
    """Project each sample's features onto `dim` random directions, `x S / sqrt(dim)`. Not differentiable.

    S is [features, dim] of independent signs (Achlioptas 2003), so `E[<y_i, y_j>] = <x_i, x_j>` with variance at most
    `(|x_i|^2 |x_j|^2 + <x_i, x_j>^2) / dim`. A sign depends on `(seed, feature_offset + position, column)` alone: not
    on device, threads, chunks, or how features are divided into tensors, and fewer columns are a prefix of more, up to
    the factor. Projections of pieces, each with its `feature_offset`, add up to the projection of the whole (signs are
    equal bit for bit, the sums up to rounding).

    Args:
        tensors: [n, ...] or a list of them, floating point: the features of n samples, flattened and joined in order.
        dim: columns of the result, at least 1.
        seed: any integer, taken modulo 2^64.
        kind: "rademacher", signs of +1 and -1.
        feature_offset: global index of the first feature, at least 0. Default 0.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns [n, dim], fp32 (fp64 if an input is fp64). Raises `ValueError` or `TypeError` for wrong arguments.

    >>> import torch
    >>> from distill_core import ops
    >>> ops.random_projection(torch.ones(1, 1), 4, seed=0).abs()
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    given = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    check_choice(OP, "kind", kind, ("rademacher",))
    _check_tensors(given)
    for name, value in (("dim", dim), ("seed", seed), ("feature_offset", feature_offset)):
        check_whole(OP, name, value)
    if dim < 1:
        raise ValueError(f"{OP}: dim must be at least 1; got {dim}")
    features = sum(math.prod(x.shape[1:]) for x in given)
    if feature_offset < 0 or feature_offset + features >= 2**63:
        raise ValueError(
            f"{OP}: feature_offset must be at least 0 and feature_offset + features below 2^63; got {feature_offset} "
            f"with {features} features"
        )
    seed = (seed + 2**63) % 2**64 - 2**63
    picked = select(OP, impl, given[0].device.type, *(x.dtype for x in given))
    flat = [x.detach().reshape(x.shape[0], math.prod(x.shape[1:])) for x in given]
    found: Tensor = random_projection_op(flat, dim, seed, feature_offset, picked)
    return found
