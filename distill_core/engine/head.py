"""The fused head: the loss is computed inside the module that owns the head's own parameter.

Legend: B sequences, T token positions, D hidden, V vocabulary.

``install_fused_head`` turns the model's ``lm_head`` into a :class:`FusedHead` in place (same object, same parameter, so
tied weights stay tied) and gives the model a forward that runs the decoder and hands its hidden states to the head.
The head is *called*, so the hooks of DDP and FSDP2 that gather its weight and reduce its gradient run as for any other
layer. Without a ``head_pass`` the model behaves exactly as before: ``generate`` and evaluation are untouched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from types import MethodType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distill_core.errors import TrainingError
from distill_core.taps import tapped

SOFTCAP_FIELDS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Config fields that hold the cap c of ``c * tanh(z / c)``."""

SCALE_FIELDS = {
    "logit_scale": 1,  # cohere
    "lm_head_multiplier": 1,  # falcon-h1
    "output_multiplier": 1,
    "output_multiplier_scale": 1,
    "logits_scaling": -1,  # granite divides
}
"""Config fields that scale the logits: 1 multiplies by the value, -1 divides by it."""

PROBE_LOGIT = 60.0
"""The probe feeds logits in [-60, 60] through the model's own code behind the head: far beyond any soft cap."""

PROBE_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1.0, torch.float16: 0.2}
"""Largest difference allowed on logits of size 60: a few units in the last place of the model's dtype."""


@dataclass(frozen=True)
class HeadSpec:
    """What a model does to ``h W^T + b``: ``z = softcap * tanh(logit_scale * (h W^T + b) / softcap)``.

    Args:
        softcap: the cap in nat, None for none.
        logit_scale: factor in front of the logits.

    >>> import torch
    >>> HeadSpec(softcap=2.0).apply(torch.tensor([1000.0]))
    tensor([2.])
    """

    softcap: float | None = None
    logit_scale: float = 1.0

    def apply(self, logits: Tensor) -> Tensor:
        """The same on logits that exist."""
        scaled = logits * self.logit_scale
        return scaled if self.softcap is None else self.softcap * torch.tanh(scaled / self.softcap)


class HeadPass(Protocol):
    """What runs inside the head: the losses of one micro-batch."""

    @property
    def output_hidden_states(self) -> bool: ...

    @property
    def output_attentions(self) -> bool: ...

    @property
    def taps(self) -> Collection[str]:
        """Attention projections to collect (:mod:`distill_core.taps`); the decoded output holds them as ``taps``."""
        ...

    def __call__(self, decoded: Any, weight_VD: Tensor, bias_V: Tensor | None, spec: HeadSpec) -> dict[str, Tensor]:
        """``decoded``: the decoder's output; returns a dict of tensors with ``loss``."""
        ...


class FusedHead(nn.Linear):
    """An output embedding that can compute the losses itself; made by :func:`install_fused_head` only."""

    spec: HeadSpec

    def forward(self, input: Any, head_pass: HeadPass | None = None) -> Any:
        if head_pass is None:
            return super().forward(input)
        return head_pass(input, self.weight, self.bias, self.spec)


def _fused_forward(
    model: Any, input_ids: Tensor | None = None, *args: Any, head_pass: HeadPass | None = None, **kwargs: Any
) -> Any:
    if head_pass is None:
        return type(model).forward(model, input_ids, *args, **kwargs)
    decoder = decoder_of(model)
    with tapped(decoder, head_pass.taps) as taps:
        decoded = decoder(
            input_ids=input_ids,
            attention_mask=kwargs.get("attention_mask"),
            output_hidden_states=head_pass.output_hidden_states,
            output_attentions=head_pass.output_attentions,
            use_cache=False,
            return_dict=True,
        )
    decoded.taps = taps
    return model.get_output_embeddings()(decoded, head_pass)


def decoder_of(model: Any) -> nn.Module:
    """The part of a causal language model that ends in the hidden states its head reads.

    Raises:
        TrainingError: the model has none.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if decoder is model or not isinstance(decoder, nn.Module):
        raise TrainingError(
            f"{type(model).__name__} cannot be trained: it has no decoder of its own that the fused head could read; "
            "expected a causal language model such as LlamaForCausalLM"
        )
    return decoder


def install_fused_head(model: Any) -> HeadSpec:
    """Turn the head of a causal language model into a :class:`FusedHead`, after proving that it computes the same.

    Args:
        model: a ``PreTrainedModel`` with a linear head; for a PEFT model, its base model.

    Returns:
        What the model does to its logits.

    Raises:
        TrainingError: the head is not a plain linear layer, or the model treats its logits in an unknown way.
    """
    spec = head_spec(model)
    head = model.get_output_embeddings()
    head.__class__ = FusedHead
    head.spec = spec
    model.forward = MethodType(_fused_forward, model)
    return spec


def fused_head(model: Any) -> Any:
    """The :class:`FusedHead` of a model that has one installed."""
    return next(module for module in model.modules() if type(module) is FusedHead)


def head_spec(model: Any) -> HeadSpec:
    """What a causal language model does to the logits of its linear head, proved by running it; changes nothing.

    Raises:
        TrainingError: the head is not a plain linear layer, or the model treats its logits in an unknown way.
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head.spec if type(head) is FusedHead else _verified_spec(model, _plain_linear(model))


def remove_fused_head(model: Any) -> None:
    """Undo :func:`install_fused_head`, and the same of a classifier."""
    model.__dict__.pop("forward", None)
    heads: list[Any] = [module for module in model.modules() if type(module) is FusedHead]
    for head in heads:
        head.__class__ = nn.Linear
        del head.__dict__["spec"]


def _plain_linear(model: Any) -> nn.Linear:
    name = type(model).__name__
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise TrainingError(f"{name} cannot be trained: it has no output embedding (get_output_embeddings() is None)")
    refuse_wrapped_head(head, name)
    plain: nn.Linear = head
    return plain


def refuse_wrapped_head(head: Any, name: str) -> None:
    """Only a plain linear layer with weights can become a :class:`FusedHead`.

    Raises:
        TrainingError: it is another module.
    """
    kind: type = type(head)
    if kind.__module__.startswith("peft."):
        raise TrainingError(
            f"{name}: the head is wrapped by PEFT ({kind.__module__}.{kind.__name__}); adapters on the head are not "
            "supported by the fused loss: leave lm_head out of student.peft.target_modules and modules_to_save"
        )
    if kind is not nn.Linear:
        raise TrainingError(
            f"{name} cannot be trained: its head is a {kind.__module__}.{kind.__name__}, the fused loss supports a "
            "plain torch.nn.Linear (quantised heads: load the student unquantised)"
        )
    if any(tensor.is_meta for tensor in head.parameters()):
        raise TrainingError(
            f"{name}: the head has no weights in this process (meta device); set FSDP_CPU_RAM_EFFICIENT_LOADING=false"
        )


def _candidate_specs(config: Any) -> Iterator[HeadSpec]:
    """What the config says, then each part of it alone: some architectures carry a field that they do not use."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    softcap = next((float(value) for name in SOFTCAP_FIELDS if (value := getattr(text, name, None))), None)
    scale = 1.0
    for name, power in SCALE_FIELDS.items():
        value = getattr(text, name, None)
        if isinstance(value, (int, float)) and value:
            scale *= float(value) ** power
    for cap, factor in dict.fromkeys(product((softcap, None), (scale, 1.0))):
        yield HeadSpec(softcap=cap, logit_scale=factor)


@torch.no_grad()
def _verified_spec(model: Any, head: nn.Linear) -> HeadSpec:
    """The spec under which decoder, head and spec reproduce ``model(...).logits``, found by running the model.

    In one forward pass the head's output is replaced by logits over the whole range [-60, 60], because a soft cap is
    invisible on the small logits of a fresh model; the head's input must be the decoder's last hidden state.
    """
    name = type(model).__name__
    generator = torch.Generator().manual_seed(0)
    ids_BT = torch.randint(0, min(head.out_features, 1000), (2, 5), generator=generator).to(head.weight.device)
    seen: dict[str, Tensor] = {}

    def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen["hidden"] = args[0]
        ramp = torch.linspace(-PROBE_LOGIT, PROBE_LOGIT, output.numel(), device=output.device)
        seen["logits"] = ramp.view(output.shape).to(output.dtype)
        return seen["logits"]

    with evaluation_mode(model):
        handle = head.register_forward_hook(record)
        try:
            logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        finally:
            handle.remove()
        hidden_BTD = decoder_of(model)(input_ids=ids_BT, use_cache=False).last_hidden_state
    tolerance = PROBE_TOLERANCE.get(hidden_BTD.dtype, 1e-4)
    if (
        "hidden" not in seen
        or seen["hidden"].shape != hidden_BTD.shape
        or not torch.allclose(seen["hidden"], hidden_BTD, rtol=1e-5, atol=1e-6, equal_nan=True)
    ):
        raise TrainingError(
            f"{name} ({model.config.model_type}) cannot be trained: something other than its decoder's last hidden "
            "state reaches its head (a projection or a scale between them), which the fused loss does not support"
        )
    for spec in _candidate_specs(model.config):
        if float((spec.apply(seen["logits"].double()) - logits_BTV.double()).abs().max()) <= tolerance:
            return spec
    raise TrainingError(
        f"{name} ({model.config.model_type}) cannot be trained: it changes its logits after the head in a way that is "
        f"not supported; supported are a soft cap ({', '.join(SOFTCAP_FIELDS)}) and a scale ({', '.join(SCALE_FIELDS)})"
        ", with or without a bias"
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside the block, then as it was."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
