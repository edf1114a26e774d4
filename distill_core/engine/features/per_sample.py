"""Per-sequence gradients of linear layers, one layer at a time: used and let go before the next one is made.

Legend: B sequences, T positions, I inputs of a layer, O its outputs, K columns of a projection.

A linear layer's gradient of one sequence is ``G = sum_t g_t a_t^T``: its inputs a, the gradient g at its output. Hooks
catch both while the backward pass goes by; the weights themselves take no part, so no summed gradient is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill_core import ops
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.errors import DataError, SignalError
from distill_core.types import TokenBatch

FORMED_ELEMENTS = 2**25
"""Numbers of per-sequence gradients that exist at a time (128 MiB in fp32), unless one layer has more."""

Visit = Callable[[str, Tensor, Tensor], None]
"""Given a layer's name, its inputs [B, T, I] and the gradients at its output [B, T, O]."""


def linear_layers(model: nn.Module, pattern: str | None, *, head: bool = False) -> dict[str, nn.Linear]:
    """The linear layers whose names the regular expression finds, in the order of the model; None: all of them.

    Args:
        model: the model.
        pattern: e.g. ``layers\\.[01]\\.`` or ``(q|v)_proj$``.
        head: take the output head of a language model as well.

    Raises:
        DataError: there is none; the message lists some that exist.
    """
    found = getattr(model, "get_output_embeddings", lambda: None)()
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (head or module is not found)
    }
    chosen = {name: layer for name, layer in layers.items() if pattern is None or re.search(pattern, name)}
    if not chosen:
        raise DataError(
            f"no linear layer of {type(model).__name__} matches layers: {pattern!r}; it has {list(layers)[:5]} ..., "
            "expected a regular expression that finds some of these names"
        )
    return chosen


def visit_gradients(
    model: SequenceModel,
    batch: TokenBatch,
    layers: Mapping[str, nn.Linear],
    visit: Visit,
    *,
    of: Literal["loss", "margin"] = "loss",
) -> None:
    """Run the batch forward and backward and call ``visit`` for each layer, from the last to the first.

    Sequences do not mix: the gradients are those of each sequence's own mean loss, or of the mean log-odds of its
    labels (not for the head). No parameter gets a gradient.

    Raises:
        SignalError: a layer ran twice, mixes sequences (experts), or took no part.
    """
    head = model.model.get_output_embeddings() if model.next_token else None
    seen: set[str] = set()
    with (
        _frozen(model.model),
        _watched(layers, batch.input_ids_BT.shape[0], visit, seen),
        torch.enable_grad(),
    ):
        if of == "margin":
            values_B = model.margins(batch)
        else:
            values_B = model.losses(batch, own_forward=any(layer is head for layer in layers.values()))
        values_B.sum().backward()  # type: ignore[no-untyped-call]
    if seen != set(layers):
        raise SignalError(
            f"{type(model.model).__name__}: no gradient reached {sorted(set(layers) - seen)[:3]}: leave them out of "
            "layers"
        )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    kept = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in kept:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in kept:
            parameter.requires_grad_(required)


@contextmanager
def _watched(layers: Mapping[str, nn.Linear], sequences: int, visit: Visit, seen: set[str]) -> Iterator[None]:
    handles = []
    entered: set[str] = set()

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            if name in entered:
                raise SignalError(f"the layer {name} runs twice in one pass: a shared layer; leave it out of layers")
            entered.add(name)
            acts, shape = args[0].detach(), tuple(output.shape)
            if output.dim() not in (2, 3) or shape[0] != sequences:
                raise SignalError(
                    f"the layer {name} gives {list(shape)} for {sequences} sequences, expected [{sequences}, ..., "
                    "features]: a layer that mixes sequences has no gradient per sequence; leave it out of layers"
                )
            if not output.requires_grad:
                output.requires_grad_()
            output.register_hook(lambda grads: used(name, acts, grads))  # type: ignore[no-untyped-call]
            return output

        return hook

    def used(name: str, acts: Tensor, grads: Tensor) -> None:
        seen.add(name)
        three = acts.dim() == 3
        visit(name, acts if three else acts[:, None], grads if three else grads[:, None])

    try:
        handles += [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
        yield
    finally:
        for handle in handles:
            handle.remove()


class ProjectedGradients:
    """Random projections of per-sequence gradients over some linear layers (bias gradients are left out).

    ``y = sum over layers of G_layer S_layer / sqrt(K)`` with the signs of :func:`distill_core.ops.random_projection`, a
    layer's features numbered after those of the layers before it.

    Args:
        model: the model.
        layers: as :func:`linear_layers` gives them.
        dim: K.
        seed: of the signs.
        change: makes what is projected of a layer's gradients [b, O, I], e.g. an optimizer's update; None: themselves.
        of: what the gradients are of: each sequence's mean loss, or the mean log-odds of its labels.
    """

    def __init__(
        self,
        model: SequenceModel,
        layers: Mapping[str, nn.Linear],
        *,
        dim: int,
        seed: int,
        change: Callable[[str, Tensor], Tensor] | None = None,
        of: Literal["loss", "margin"] = "loss",
    ) -> None:
        self.model, self.layers, self.dim, self.seed, self.change = model, layers, dim, seed, change
        self.of = of
        self.offsets, start = {}, 0
        for name, layer in layers.items():
            self.offsets[name] = start
            start += layer.weight.numel()

    def __call__(self, batch: TokenBatch) -> Tensor:
        """[B, K]."""
        parts: dict[str, Tensor] = {}

        def visit(name: str, acts_BTI: Tensor, grads_BTO: Tensor) -> None:
            parts[name] = self._projected(name, acts_BTI, grads_BTO)

        visit_gradients(self.model, batch, self.layers, visit, of=self.of)
        return torch.stack([parts[name] for name in self.layers]).sum(dim=0)

    def _projected(self, name: str, acts_BTI: Tensor, grads_BTO: Tensor) -> Tensor:
        at_once = max(1, FORMED_ELEMENTS // self.layers[name].weight.numel())
        found = []
        for start in range(0, acts_BTI.shape[0], at_once):
            cut = slice(start, start + at_once)
            formed_bOI = torch.bmm(grads_BTO[cut].transpose(1, 2), acts_BTI[cut])
            if self.change is not None:
                formed_bOI = self.change(name, formed_bOI)
            found.append(ops.random_projection(formed_bOI, self.dim, seed=self.seed, feature_offset=self.offsets[name]))
        return torch.cat(found)


def gradient_norms(model: SequenceModel, layers: Mapping[str, nn.Linear], batch: TokenBatch) -> Tensor:
    """[B] norms of each sequence's gradient over the weights and biases of the layers; none is formed.

    The squares are :func:`distill_core.ops.gradient_gram` of a sequence with itself, and ``|sum_t g_t|^2`` for a bias.
    """
    squares: dict[str, Tensor] = {}

    def visit(name: str, acts_BTI: Tensor, grads_BTO: Tensor) -> None:
        pairs = [(acts_BTI[b : b + 1], grads_BTO[b : b + 1]) for b in range(acts_BTI.shape[0])]
        square_B = torch.cat([ops.gradient_gram(a, g, a, g)[0] for a, g in pairs])
        if layers[name].bias is not None:
            square_B = square_B + grads_BTO.sum(dim=1).square().sum(dim=-1)
        squares[name] = square_B

    visit_gradients(model, batch, layers, visit)
    return torch.stack([squares[name] for name in layers]).sum(dim=0).sqrt()
