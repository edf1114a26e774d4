"""Function transforms (`torch.func`) and forward mode: what the differentiable ops refuse, and values under vmap.

Derivatives of the ops are registered backward passes. `torch.func.grad` and its like cannot enter those of a registered
op, and forward mode passes through one as through a constant: its tangent would be zero, in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

INSTEAD = (
    "Use reverse mode on tensors that require grad: loss.backward() or torch.autograd.grad (create_graph=True for "
    "second derivatives, where the op has them)"
)


def transformed() -> bool:
    """Whether the caller runs inside `torch.func.grad`, `vmap`, `jvp`, ...; False while torch.compile traces."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def refuse_transforms(op: str, inputs: Sequence[Tensor | None], *, values_too: bool = False) -> None:
    """Raise `RuntimeError` where the derivative of `op` by one of its inputs would be refused by torch, or be zero.

    `values_too`: refuse every call inside a transform.
    """
    if torch.compiler.is_compiling():
        return
    given = [x for x in inputs if isinstance(x, Tensor)]
    if any(forward_ad.unpack_dual(x).tangent is not None for x in given):  # type: ignore[no-untyped-call]
        raise RuntimeError(
            f"{op}: got an input with a forward-mode tangent (torch.func.jvp, jacfwd, linearize or "
            f"torch.autograd.forward_ad), but the op has no forward-mode derivative. {INSTEAD}"
        )
    if transformed() and torch.is_grad_enabled() and any(x.requires_grad for x in given):
        raise RuntimeError(
            f"{op}: got an input that torch.func differentiates (grad, vjp, jacrev, hessian), or one that "
            f"requires grad inside torch.func.vmap; the op has no derivative there. {INSTEAD}"
        )
    if transformed() and values_too:
        raise RuntimeError(
            f"{op}: runs inside no transform of torch.func (grad, vmap, ...), for it takes its gradient in the forward "
            f"pass; linear_support_logits gives values under torch.func.vmap. {INSTEAD}"
        )


def _sample(argument: Any, dim: Any, i: int) -> Any:
    """Sample i of an argument of a registered op; lists come with a list of dimensions, None is for all samples."""
    if isinstance(dim, list | tuple):
        return [_sample(x, own, i) for x, own in zip(argument, dim, strict=True)]
    return argument if dim is None else argument.select(dim, i)


def values_by_sample(name: str, op: Callable[..., Any]) -> Callable[..., Any]:
    """A rule for `register_vmap`: one call of `op` per sample, stacked. torch makes none for ops that take lists."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        if info.batch_size == 0:
            raise ValueError(f"{name}: torch.func.vmap got a dimension of size 0; expected samples, skip the call")
        found = [
            op(*(_sample(x, dim, i) for x, dim in zip(arguments, in_dims, strict=True))) for i in range(info.batch_size)
        ]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        return tuple(torch.stack(parts) for parts in zip(*found, strict=True)), (0,) * len(found[0])

    return rule
