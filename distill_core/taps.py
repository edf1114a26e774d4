"""Reading the attention projections of a Transformer while it runs: signals ``queries``, ``keys``, ``values``.

Legend: B sequences, T token positions, L layers, E width of a projection (heads x head size; fewer heads for keys and
values under grouped-query attention).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from distill_core.errors import SignalError

PROJECTIONS: Mapping[str, tuple[str, ...]] = {
    "queries": ("q_proj", "query", "q_lin", "q"),
    "keys": ("k_proj", "key", "k_lin", "k"),
    "values": ("v_proj", "value", "v_lin", "v"),
}
"""Names that Transformers gives to the linear layers in question, by signal."""

SIGNALS = frozenset(PROJECTIONS)


def projections(model: nn.Module, signal: str) -> list[nn.Linear]:
    """The L projections of a signal, from the first layer to the last.

    Raises:
        SignalError: the model has none under the known names (some fuse all three into one layer).
    """
    for name in PROJECTIONS[signal]:
        found = [module for path, module in model.named_modules() if path.rpartition(".")[2] == name]
        if found and all(isinstance(module, nn.Linear) or hasattr(module, "base_layer") for module in found):
            return found
    raise SignalError(
        f"{type(model).__name__} has no separate attention {signal}: a linear layer called "
        f"{' or '.join(PROJECTIONS[signal])} was looked for in every block. Models that fuse query, key and value into "
        "one layer cannot give them; use attentions or hidden states"
    )


@contextmanager
def tapped(model: nn.Module, signals: Collection[str]) -> Iterator[dict[str, tuple[Tensor, ...]]]:
    """Collect the outputs of the attention projections of one forward pass inside the block.

    Args:
        model: a Transformer with separate query, key and value layers.
        signals: names among :data:`SIGNALS`; none: nothing is collected.

    Yields:
        A dict that holds, after the forward pass, a tuple of L tensors [B, T, E] per signal.

    Raises:
        SignalError: the model has no such layers, or one ran twice (gradient checkpointing, shared layers).

    >>> from transformers import LlamaConfig, LlamaModel
    >>> import torch
    >>> model = LlamaModel(LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
    ...                                num_attention_heads=4, num_key_value_heads=2))
    >>> with tapped(model, ["queries", "values"]) as found:
    ...     _ = model(torch.tensor([[1, 2, 3]]))
    >>> [tuple(layer.shape) for layer in found["queries"]], tuple(found["values"][0].shape)
    ([(1, 3, 8), (1, 3, 8)], (1, 3, 4))
    """
    collected: dict[str, list[Tensor]] = {signal: [] for signal in signals}
    result: dict[str, tuple[Tensor, ...]] = {}
    modules = {signal: projections(model, signal) for signal in signals}
    handles: list[Any] = []
    try:
        for signal, layers in modules.items():
            for layer in layers:
                handles.append(layer.register_forward_hook(_collector(collected[signal])))
        yield result
    finally:
        for handle in handles:
            handle.remove()
    for signal, layers in modules.items():
        if len(collected[signal]) != len(layers):
            raise SignalError(
                f"{type(model).__name__}: {len(layers)} attention {signal} were expected of one forward pass, "
                f"{len(collected[signal])} came: switch gradient checkpointing off"
            )
        result[signal] = tuple(collected[signal])


def _collector(into: list[Tensor]) -> Any:
    def collect(module: nn.Module, args: Any, output: Tensor) -> None:
        into.append(output)

    return collect
