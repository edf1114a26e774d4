"""Classifiers under the fused head: the final linear layer computes the losses, whatever lies before it.

Legend: B sequences, T positions, D features, N rows, V classes.

A classifier has no decoder that a head could be called on: there are poolers, dropouts and flattenings in between. So
the model's own forward runs whole, what reaches its last linear layer is caught there, and that layer is *called* again
with a head pass: hooks of DDP and FSDP2 see it as any other layer. The proof that this computes the same is made once,
on the first sequences of the data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill_core.engine.head import (
    PROBE_LOGIT,
    PROBE_TOLERANCE,
    FusedHead,
    HeadPass,
    HeadSpec,
    evaluation_mode,
    refuse_wrapped_head,
)
from distill_core.errors import TrainingError
from distill_core.taps import tapped
from distill_core.types import RowIndex, TokenBatch

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Classified:
    """What one forward pass of a classifier gave.

    Args:
        logits: [B, V] (one prediction per sequence) or [B, T, V].
        last_hidden_state: [B, T, D], what its last linear layer read; where that is one vector per sequence, the same
            at every position.
        hidden_states: L + 1 tensors [B, T, D], or None. Feature maps of a convolutional net [B, D, H, W] become
            sequences [B, 1 + H W, D] that start with their mean, the place of a class token.
        attentions: L tensors [B, H, T, T], or None.
        taps: attention projections by signal.
    """

    logits: Tensor
    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    taps: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)


def install_classifier_head(model: Any, batch: TokenBatch) -> HeadSpec:
    """Turn the last linear layer of a classifier into a :class:`FusedHead`, after proving that it makes the logits.

    Args:
        model: a ``PreTrainedModel`` for sequence, token or image classification.
        batch: some sequences of the data, to try it on.

    Raises:
        TrainingError: there is no such layer, or something comes after it, or rows stand elsewhere.
    """
    path = head_path(model, batch)
    head = model.get_submodule(path)
    head.__class__ = FusedHead
    head.spec = spec = HeadSpec()

    def forward(self: Any, *args: Any, head_pass: HeadPass | None = None, **inputs: Any) -> Any:
        if head_pass is None:
            return type(self).forward(self, *args, **inputs)
        found = classify(
            self,
            path,
            inputs,
            output_hidden_states=head_pass.output_hidden_states,
            output_attentions=head_pass.output_attentions,
            taps=head_pass.taps,
        )
        return self.get_submodule(path)(found, head_pass)

    model.forward = MethodType(forward, model)
    return spec


def classify(
    model: Any,
    path: str,
    inputs: Mapping[str, Any],
    *,
    output_hidden_states: bool = False,
    output_attentions: bool = False,
    taps: Collection[str] = (),
) -> Classified:
    """Run a classifier whole and keep what its last linear layer, at ``path``, read."""
    options: dict[str, Any] = {"return_dict": True}
    if output_hidden_states:
        options["output_hidden_states"] = True
    if output_attentions:
        options["output_attentions"] = True
    with tapped(model, taps) as tapped_values, _caught(model.get_submodule(path)) as seen:
        output = type(model).forward(model, **inputs, **options)
    features = seen["input"]
    if features.dim() == 2:
        length = next(iter(inputs.values())).shape[1] if "input_ids" in inputs else 1
        features = features[:, None].expand(-1, length, -1)
    return Classified(
        output.logits,
        features,
        tuple(map(as_sequence, output.hidden_states)) if output_hidden_states else None,
        tuple(output.attentions) if output_attentions else None,
        tapped_values,
    )


def as_sequence(hidden: Tensor) -> Tensor:
    """[B, T, D] as it is; a feature map [B, D, H, W] as [B, 1 + H W, D], its mean first; a vector [B, D] as [B, 1, D].

    >>> as_sequence(torch.zeros(2, 8, 3, 3)).shape
    torch.Size([2, 10, 8])
    """
    if hidden.dim() == 4:
        places_BTD = hidden.flatten(2).transpose(1, 2)
        return torch.cat([places_BTD.mean(dim=1, keepdim=True), places_BTD], dim=1)
    return hidden[:, None] if hidden.dim() == 2 else hidden


def logits_of_rows(logits: Tensor, rows: RowIndex) -> Tensor:
    """[N, V] logits at the rows, from [B, V] or [B, T, V]."""
    return logits[rows.sequence_N] if logits.dim() == 2 else rows.select(logits)


@torch.no_grad()
def head_path(model: Any, batch: TokenBatch) -> str:
    """The name of the linear layer whose outputs are the logits, proved by exchanging them in one forward pass.

    Raises:
        TrainingError: there is no such layer, or something comes after it, or rows stand elsewhere.
    """
    name, classes = type(model).__name__, int(model.config.num_labels)
    inputs = batch.to(next(iter(model.parameters())).device).model_inputs()
    called: list[str] = []
    layers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes
    }
    handles = [
        layer.register_forward_hook(lambda module, args, output, path=path: called.append(path))
        for path, layer in layers.items()
    ]
    with evaluation_mode(model):
        try:
            model(**inputs)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise TrainingError(
                f"{name} does not run on the data of this task, which gives it {', '.join(inputs)}: {error}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    if not called:
        raise TrainingError(
            f"{name} cannot be trained for {classes} classes: no torch.nn.Linear with {classes} outputs ran in its "
            "forward pass, and the fused loss replaces the last one; expected a classifier such as "
            "BertForSequenceClassification or ViTForImageClassification"
        )
    refuse_wrapped_head(layers[called[-1]], name)
    _verify(model, called[-1], inputs, batch.to(next(iter(model.parameters())).device))
    return called[-1]


def _verify(model: Any, path: str, inputs: Mapping[str, Any], batch: TokenBatch) -> None:
    """The head's outputs, exchanged for numbers over a wide range, must come out as the logits of the rows."""
    exchanged: dict[str, Tensor] = {}

    def exchange(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        ramp = torch.linspace(-PROBE_LOGIT, PROBE_LOGIT, output.numel(), device=output.device)
        exchanged["logits"] = ramp.view(output.shape).to(output.dtype)
        return exchanged["logits"]

    handle = model.get_submodule(path).register_forward_hook(exchange)
    with evaluation_mode(model):
        try:
            logits = model(**inputs).logits
        finally:
            handle.remove()
    rows, ours = batch.rows(), exchanged["logits"]
    if ours.dim() == 2:
        ours = ours[:, None].expand(-1, batch.input_ids_BT.shape[1], -1)
    expected_NV, given_NV = rows.select(ours).double(), logits_of_rows(logits, rows).double()
    tolerance = PROBE_TOLERANCE.get(logits.dtype, 1e-4)
    if expected_NV.shape != given_NV.shape or float((expected_NV - given_NV).abs().max()) > tolerance:
        raise TrainingError(
            f"{type(model).__name__} ({model.config.model_type}) cannot be trained with this task: the outputs of its "
            f"last linear layer ({path}) at the positions of the task are not its logits. Either it changes them (two "
            "heads, a cap), which is not supported, or it reads another position of the sequence: encoders read the "
            "first token (task.position: first), decoders the last one (task.position: last)"
        )


@contextmanager
def _caught(head: nn.Module) -> Iterator[dict[str, Tensor]]:
    """What a layer reads in the block, by a hook."""
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen["input"] = args[0]

    handle = head.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()
