"""A narrower copy of a model: fewer hidden channels, feed-forward neurons and heads; the weightiest stay.

Width pruning after Minitron (2407.14679) and LLM-Pruner (2305.11627): structures are ranked by an importance and
whole ones are dropped. The importances here are products of weight norms and need no data; Minitron's come from
activations on calibration text, LLM-Pruner's from gradients: neither is reproduced.

Legend: D hidden channels, I feed-forward neurons of a layer, G groups of heads that share a key and a value head.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill_core.config import Width
from distill_core.errors import TrainingError

LAYER = re.compile(r"^(?P<layer>.*\.layers\.\d+)\.(?P<rest>.+)$")
QUERIES, KEYS, OUT = ("self_attn.q_proj",), ("self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",)
INTO, OUT_OF = ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)


@dataclass
class _Shape:
    """Sizes of the wide model."""

    hidden: int
    neurons: int
    heads: int
    groups: int
    head_dim: int

    @classmethod
    def of(cls, config: Any) -> _Shape:
        try:
            heads = int(config.num_attention_heads)
            groups = int(getattr(config, "num_key_value_heads", None) or heads)
            head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
            return cls(int(config.hidden_size), int(config.intermediate_size), heads, groups, head_dim)
        except AttributeError as error:
            raise TrainingError(f"student.init.from_teacher.width: the model's config has no {error.name}") from error


@dataclass
class _Kept:
    """Indices that stay: channels of the whole model; neurons and groups by layer."""

    channels_D: Tensor
    neurons: dict[str, Tensor] = field(default_factory=dict)
    groups: dict[str, Tensor] = field(default_factory=dict)


def narrow(teacher: Any, width: Width) -> Any:
    """A new model with the teacher's depth and the widths asked for.

    Kept are, with Frobenius norms: the neurons with the largest ``|gate_i| |up_i| |down_i|``; the groups of heads
    with the largest ``|V_g| |O_g|``; the channels with the largest sum of squares over all weights that write to the
    residual stream, the embedding among them. With fewer channels, norms see a mean over fewer squares: their weights
    are multiplied by ``sqrt(D / D_kept)``, exact where the dropped channels are zero.

    Args:
        teacher: a ``PreTrainedModel`` with the modules of the Llama family (``self_attn.q_proj``, ``mlp.gate_proj``).
        width: ``hidden_size``, ``intermediate_size``, ``key_value_heads``; None: as the teacher's.

    Returns:
        A model of the same class; heads keep their dimension, a group keeps all its query heads.

    Raises:
        TrainingError: a width larger than the teacher's, or a weight that these rules do not know.
    """
    config = teacher.config.get_text_config()
    shape = _Shape.of(config)
    asked = {
        "hidden_size": (width.hidden_size, shape.hidden),
        "intermediate_size": (width.intermediate_size, shape.neurons),
        "key_value_heads": (width.key_value_heads, shape.groups),
    }
    for name, (wanted, most) in asked.items():
        if wanted is not None and wanted > most:
            raise TrainingError(
                f"student.init.from_teacher.width.{name} is {wanted}, but the teacher has {most}: it is cut"
            )
    heads = (width.key_value_heads or shape.groups) * (shape.heads // shape.groups)
    if (width.hidden_size or shape.hidden) % heads:
        raise TrainingError(
            f"student.init.from_teacher.width.hidden_size is {width.hidden_size or shape.hidden}, which {heads} "
            "attention heads do not divide, as Transformers expects: take a multiple, or other key_value_heads"
        )
    source = teacher.state_dict()
    kept = _choose(source, teacher.get_input_embeddings().weight.detach(), shape, width)
    student_config = copy.deepcopy(teacher.config)
    _shrink(student_config.get_text_config(), shape, width)
    student = type(teacher)._from_config(student_config, dtype=teacher.dtype)
    wanted_state = student.state_dict()
    cut = {key: _cut(key, source[key], kept, shape) for key in wanted_state}
    wrong = [key for key, value in cut.items() if value.shape != wanted_state[key].shape]
    if wrong:
        raise TrainingError(
            f"{type(teacher).__name__} cannot be narrowed: {wrong[0]} would be {list(cut[wrong[0]].shape)}, "
            f"the narrower model expects {list(wanted_state[wrong[0]].shape)}"
        )
    student.load_state_dict(cut, strict=True)
    if hasattr(teacher, "generation_config"):  # a classifier writes nothing
        student.generation_config = copy.deepcopy(teacher.generation_config)
    return student


def _shrink(config: Any, shape: _Shape, width: Width) -> None:
    """The config of the narrower model, in place; the heads' dimension is said, not derived from the width."""
    groups = width.key_value_heads or shape.groups
    config.head_dim = shape.head_dim
    config.num_attention_heads = groups * (shape.heads // shape.groups)
    config.num_key_value_heads = groups
    config.hidden_size = width.hidden_size or shape.hidden
    config.intermediate_size = width.intermediate_size or shape.neurons


def _choose(source: dict[str, Tensor], embedding_VD: Tensor, shape: _Shape, width: Width) -> _Kept:
    energy_D = embedding_VD.double().square().sum(0)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in source.items():
        found = LAYER.match(key)
        if found is None or not key.endswith(".weight") or value.dim() != 2:
            continue
        name, weight = found["rest"].removesuffix(".weight"), value.double()
        layers.setdefault(found["layer"], {})[name] = weight
        if name in (*OUT, *OUT_OF):
            energy_D += weight.square().sum(1)
    kept = _Kept(_largest(energy_D, width.hidden_size))
    for layer, found_weights in layers.items():
        missing = [name for name in (*QUERIES, *KEYS, *OUT, *INTO, *OUT_OF) if name not in found_weights]
        if missing:
            raise TrainingError(
                f"student.init.from_teacher.width: the layer {layer} has no {missing[0]}: only models with the "
                "modules of the Llama family can be narrowed; cut layers alone, or give student.init.model"
            )
        neurons_I = found_weights[OUT_OF[0]].norm(dim=0)
        for name in INTO:
            neurons_I = neurons_I * found_weights[name].norm(dim=1)
        values, out = found_weights[KEYS[1]], found_weights[OUT[0]]
        values_G = values.reshape(shape.groups, -1).norm(dim=1)
        out_G = out.reshape(out.shape[0], shape.groups, -1).transpose(0, 1).reshape(shape.groups, -1).norm(dim=1)
        kept.neurons[layer] = _largest(neurons_I, width.intermediate_size)
        kept.groups[layer] = _largest(values_G * out_G, width.key_value_heads)
    return kept


def _largest(importance: Tensor, count: int | None) -> Tensor:
    """Indices of the ``count`` largest in their own order; ties by the lowest index."""
    if count is None:
        return torch.arange(len(importance))
    return importance.sort(descending=True, stable=True).indices[:count].sort().values


def _cut(key: str, value: Tensor, kept: _Kept, shape: _Shape) -> Tensor:
    found = LAYER.match(key)
    channels = kept.channels_D
    name, _, what = (key if found is None else found["rest"]).rpartition(".")
    if what not in ("weight", "bias"):
        raise TrainingError(f"student.init.from_teacher.width: how to narrow {key} is not known")
    if value.dim() == 1 and name.rpartition(".")[2].endswith("norm"):
        if len(value) != shape.hidden or name.endswith(("q_norm", "k_norm")):
            return value.clone()  # norms of single heads
        scale = (shape.hidden / len(channels)) ** 0.5 if what == "weight" else 1.0
        return value[channels] * scale
    if found is None:
        return value.index_select(-1, channels) if value.dim() == 2 else value.clone()
    rows, columns = _sides(name, found["layer"], kept, shape)
    if rows is None or columns is None:
        raise TrainingError(f"student.init.from_teacher.width: how to narrow {key} is not known")
    cut = value.index_select(0, rows)
    return cut.index_select(1, columns) if value.dim() == 2 else cut


def _sides(name: str, layer: str, kept: _Kept, shape: _Shape) -> tuple[Tensor | None, Tensor | None]:
    """Indices of the outputs and of the inputs of a projection that stay."""

    def spread(groups: Tensor, size: int) -> Tensor:
        return (groups[:, None] * size + torch.arange(size)).flatten()

    per_group = shape.heads // shape.groups * shape.head_dim
    queries, keys = spread(kept.groups[layer], per_group), spread(kept.groups[layer], shape.head_dim)
    sides = {
        **dict.fromkeys(QUERIES, (queries, kept.channels_D)),
        **dict.fromkeys(KEYS, (keys, kept.channels_D)),
        **dict.fromkeys(OUT, (kept.channels_D, queries)),
        **dict.fromkeys(INTO, (kept.neurons[layer], kept.channels_D)),
        **dict.fromkeys(OUT_OF, (kept.channels_D, kept.neurons[layer])),
    }
    return sides.get(name, (None, None))
