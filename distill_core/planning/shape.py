"""The sizes of a decoder-only transformer that costs are counted from.

Legend: D hidden, L layers, A width of all query heads, G width of the key (or value) heads, F feed-forward width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill_core.errors import DistillError

ASPECT = 128
"""Hidden width over layers of the models of arXiv 2502.08606, appendix I."""

OMEGA = 12
"""N = OMEGA * L * D^2 for full multi-head attention and a gated feed-forward of 8/3 D (2502.08606, equation 60)."""

_FIELDS = {
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "feed_forward": ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim"),
    "vocabulary": ("vocab_size",),
}
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    Args:
        body: parameters without the embedding and the head, N of the scaling laws.
        hidden: D.
        layers: L.
        attention: A, query heads times their width.
        key_value: G, key-value heads times their width.
        feed_forward: F.
        vocabulary: V, rows of the head.
        tied: whether head and embedding are one matrix.
        notes: what was assumed to get these numbers.
        key_value_heads: how many key-value heads make up G; 1 where that is not known.

    >>> ModelShape(body=28, hidden=2, layers=1, attention=2, key_value=2, feed_forward=2, vocabulary=5).parameters
    38
    """

    body: float
    hidden: int
    layers: int
    attention: int
    key_value: int
    feed_forward: int
    vocabulary: int
    tied: bool = True
    notes: tuple[str, ...] = ()
    key_value_heads: int = 1

    @property
    def parameters(self) -> float:
        """All parameters; a tied head counts once."""
        return self.body + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def with_layers(self, layers: int) -> ModelShape:
        """The same model with another number of equal layers; one final norm stays."""
        body = (self.body - self.hidden) * layers / self.layers + self.hidden
        return replace(self, body=body, layers=layers)

    def with_width(
        self, hidden: int | None = None, feed_forward: int | None = None, key_value_heads: int | None = None
    ) -> ModelShape:
        """The same depth in another width; the body shrinks as the matrices of a gated layer do."""
        share = (key_value_heads or self.key_value_heads) / self.key_value_heads
        narrow = replace(
            self,
            hidden=hidden or self.hidden,
            feed_forward=feed_forward or self.feed_forward,
            attention=round(self.attention * share),
            key_value=round(self.key_value * share),
            key_value_heads=key_value_heads or self.key_value_heads,
        )
        return replace(narrow, body=self.body * narrow._layer() / self._layer())

    def _layer(self) -> int:
        """Entries of the matrices of one layer: attention, and a gated feed-forward."""
        return self.hidden * (2 * self.attention + 2 * self.key_value + 3 * self.feed_forward)


def shape_of_size(
    parameters: float,
    *,
    label: str,
    vocabulary: int,
    hidden: int | None = None,
    layers: int | None = None,
) -> ModelShape:
    """A shape from a number of parameters, embeddings included, and what else is known.

    What is not given follows the models of arXiv 2502.08606 (appendices H.1 and I): D = 128 L, N = 12 L D^2, tied head.

    Raises:
        DistillError: a size is not positive, or the embedding alone is larger than the model.

    >>> shape = shape_of_size(0.1811e9, label="student", vocabulary=32_768)  # "143M" of its Table 13
    >>> shape.layers, shape.hidden, round(shape.body / 1e6)
    (9, 1152, 143)
    """
    if not parameters > 0:
        raise DistillError(f"--{label}-parameters must be positive, got {parameters:g}")
    for name, value in (("vocabulary", vocabulary), ("hidden", hidden), ("layers", layers)):
        if value is not None and value < 1:
            raise DistillError(f"--{name} must be positive, got {value}")
    notes = []
    if hidden is None:
        body = _body(parameters, vocabulary)
        hidden = (
            layers * ASPECT if layers is not None else ASPECT * max(1, round((body / (ASPECT**2 * OMEGA)) ** (1 / 3)))
        )
        notes.append(f"{label}: hidden width {hidden}, from 128 per layer")
    body = parameters - vocabulary * hidden
    if body <= 0:
        raise DistillError(
            f"the {label}'s embedding of {vocabulary:,} tokens times {hidden:,} alone has "
            f"{vocabulary * hidden:,} parameters, more than the {parameters:,.0f} given by --{label}-parameters: that "
            "number counts the embeddings; check it, --vocabulary and --hidden"
        )
    if layers is None:
        layers = max(1, round(body / (OMEGA * hidden**2)))
        notes.append(f"{label}: {layers} layers, from 12 L D^2 parameters")
    notes.append(f"{label}: full attention heads, a gated feed-forward of 8/3 the hidden width, a tied head")
    return ModelShape(body, hidden, layers, hidden, hidden, round(8 * hidden / 3), vocabulary, True, tuple(notes))


def _body(parameters: float, vocabulary: int) -> float:
    """Parameters without embeddings, where the width follows from their number; by bisection."""
    low, high = 0.0, parameters
    for _ in range(200):
        middle = (low + high) / 2
        total = middle + vocabulary * (middle * ASPECT / OMEGA) ** (1 / 3)
        low, high = (middle, high) if total < parameters else (low, middle)
    return low


def shape_of_config(config: Mapping[str, Any], parameters: float, *, label: str) -> ModelShape:
    """A shape from the fields of a Transformers config and the number of all parameters.

    Raises:
        DistillError: the config lacks a size.
    """
    text = config.get("text_config")
    fields: Mapping[str, Any] = {**config, **text} if isinstance(text, Mapping) else config
    found: dict[str, int] = {}
    for size, names in _FIELDS.items():
        value = next((fields[name] for name in names if isinstance(fields.get(name), int)), None)
        if value is None and size != "feed_forward":
            raise DistillError(
                f"the config of the {label} has none of the fields {', '.join(names)}: give --{label}-parameters, "
                "--hidden and --layers instead of the model"
            )
        found[size] = value if value is not None else 4 * found["hidden"]
    head = fields.get("head_dim") or found["hidden"] // found["heads"]
    key_value_heads = fields.get("num_key_value_heads") or found["heads"]
    tied = bool(fields.get("tie_word_embeddings", True))
    notes: tuple[str, ...] = ()
    if any(isinstance(fields.get(name), int) and fields[name] > 1 for name in _EXPERTS):
        notes = (f"{label}: a mixture of experts, of which every parameter is counted: too much compute",)
    return ModelShape(
        body=parameters - found["vocabulary"] * found["hidden"] * (1 if tied else 2),
        hidden=found["hidden"],
        layers=found["layers"],
        attention=found["heads"] * head,
        key_value=key_value_heads * head,
        feed_forward=found["feed_forward"],
        vocabulary=found["vocabulary"],
        tied=tied,
        notes=notes,
        key_value_heads=key_value_heads,
    )
