"""Memory of a training step, from the sizes of the student.

Legend: n tokens of a micro-batch, D hidden, L layers, A width of the query heads, G of the key heads, F feed-forward,
V vocabulary, C rows of a chunk of the head, N predicted positions (at most n).

Two moments decide. When the backward pass begins, everything it needs is held, with the head's gradients, which
`sparse_distill_loss` takes in the forward pass. When it ends, the activations are gone and all gradients are there. The
peak is the larger of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill_core.planning.figures import Figure, Formula
from distill_core.planning.shape import ModelShape

Dtype = Literal["float32", "bfloat16", "float16"]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
MAX_CHUNK_ROWS, MAX_CHUNK_BYTES = 256, 64 * 2**20
"""As `distill_core.ops` cuts the rows of a head (`row_chunks.default_rows`), which imports torch; a test compares."""
DENSE_TENSORS = 5
"""[N, V] tensors alive at the peak of a dense KL with `torch.nn.functional.kl_div`; a test counts them."""

FORMULAS = {
    "states": Formula(
        text="parameters x bytes: weights once, gradients once, AdamW twice; with LoRA the last two for the adapters",
        source="AdamW keeps two moments in the dtype of the weights (Loshchilov and Hutter 2019, arXiv 1711.05101)",
        domain="one device, no sharding, no offloading; precision bfloat16 keeps float32 weights and adds a copy "
        "of 2 B",
    ),
    "activations": Formula(
        text="n (L (6 D + 2 A + 2 G + 4 F) + 2 D) x bytes; with checkpointing n (L D + 2 D) x bytes, and one layer "
        "computed again",
        source="tensors that autograd saves in a Llama layer of Transformers, counted; the way of counting is that of "
        "Korthikanti et al. 2022, arXiv 2205.05198",
        domain="RMSNorm, gated feed-forward, attention by a fused kernel that keeps no T x T matrix, no dropout",
    ),
    "head": Formula(
        text="(N D + V D + C V) x 4 B, C = min(256, 64 MiB / 4 V)",
        source="docs/ops.md, sparse_distill_loss: gradients of hidden states and head are taken chunk by chunk",
        domain="row objectives; a free-form objective that builds logits itself costs more",
    ),
    "dense-head": Formula(
        text="5 N V x 4 B",
        source="tensors of this size alive at once in log_softmax and torch.nn.functional.kl_div, counted",
        domain="a KL over the whole vocabulary in float32 without fusion",
    ),
    "peak": Formula(
        text="weights + AdamW + max(activations + head + n (2 F + 2 D) x bytes, gradients + 2 V D x 4 B)",
        source="the larger of the begin and the end of the backward pass; within 20 % of the measured peak of small "
        "models (tests/planning/test_memory.py)",
        domain="no accumulation; with it gradients stand beside the activations; allocator overhead is not counted",
    ),
}


@dataclass(frozen=True)
class Step:
    """One micro-batch of training.

    Args:
        batch: sequences.
        sequence: tokens of a sequence.
        dtype: of the weights.
        precision: of the arithmetic (bfloat16 and float16: autocast over the weights).
        checkpointing: gradient checkpointing.
        accumulation: micro-batches per optimizer step.
        chunk_rows: rows per pass over the head; None: the op decides.
        lora_rank: rank of LoRA adapters on every linear layer; None: all weights are trained.
    """

    batch: int = 8
    sequence: int = 1024
    dtype: Dtype = "float32"
    precision: Dtype = "float32"
    checkpointing: bool = False
    accumulation: int = 1
    chunk_rows: int | None = None
    lora_rank: int | None = None

    @property
    def tokens(self) -> int:
        return self.batch * self.sequence


@dataclass(frozen=True)
class StepMemory:
    """Bytes of the parts of a step."""

    weights: float
    gradients: float
    adam: float
    activations: float
    activations_checkpointed: float
    head: float
    dense_head: float
    peak: float
    dense_peak: float


def chunk_rows(vocabulary: int) -> int:
    """Rows of the head handled together.

    >>> chunk_rows(49_152), chunk_rows(1_000)
    (256, 256)
    """
    return max(1, min(MAX_CHUNK_ROWS, MAX_CHUNK_BYTES // (4 * vocabulary)))


def trained_parameters(shape: ModelShape, lora_rank: int | None) -> float:
    """Parameters with a gradient: all, or ``rank (in + out)`` of each linear layer of the decoder.

    >>> shape = ModelShape(body=100, hidden=4, layers=1, attention=4, key_value=2, feed_forward=8, vocabulary=10)
    >>> trained_parameters(shape, None), trained_parameters(shape, 1)
    (140, 64)
    """
    if lora_rank is None:
        return shape.parameters
    d, a, g, f = shape.hidden, shape.attention, shape.key_value, shape.feed_forward
    return lora_rank * shape.layers * (2 * (d + a) + 2 * (d + g) + 3 * (d + f))


def step_memory(shape: ModelShape, step: Step) -> StepMemory:
    """Bytes of a training step.

    >>> shape = ModelShape(body=100, hidden=4, layers=1, attention=4, key_value=2, feed_forward=8, vocabulary=10)
    >>> found = step_memory(shape, Step(batch=1, sequence=2))
    >>> found.weights, found.adam, found.gradients
    (560, 1120, 560)
    """
    width, unit = BYTES[step.dtype], BYTES[step.precision]
    trained = trained_parameters(shape, step.lora_rank)
    copies: float = 2 * shape.parameters if step.precision != "float32" and step.dtype == "float32" else 0
    weights = shape.parameters * width + copies + (trained * width if step.lora_rank is not None else 0)
    gradients, adam = trained * width, 2 * trained * width
    layer = 6 * shape.hidden + 2 * shape.attention + 2 * shape.key_value + 4 * shape.feed_forward
    activations = step.tokens * (shape.layers * layer + 2 * shape.hidden) * unit
    checkpointed = step.tokens * (shape.layers * shape.hidden + 2 * shape.hidden) * unit
    working = step.tokens * (2 * shape.feed_forward + 2 * shape.hidden) * unit
    if step.checkpointing:
        working += step.tokens * layer * unit
    rows = min(step.chunk_rows or chunk_rows(shape.vocabulary), step.tokens)
    head_gradient: float = 0 if step.lora_rank is not None else shape.vocabulary * shape.hidden
    head_gradients = 4 * (step.tokens * shape.hidden + head_gradient)
    chunk, dense = 4 * rows * shape.vocabulary, 4 * DENSE_TENSORS * step.tokens * shape.vocabulary
    kept: float = checkpointed if step.checkpointing else activations
    kept += gradients if step.accumulation > 1 else 0
    ending = gradients + 8 * head_gradient
    return StepMemory(
        weights=weights,
        gradients=gradients,
        adam=adam,
        activations=activations,
        activations_checkpointed=checkpointed + step.tokens * layer * unit,
        head=head_gradients + chunk,
        dense_head=dense,
        peak=weights + adam + max(kept + head_gradients + max(chunk, working), ending),
        dense_peak=weights + adam + max(kept + max(dense, working), ending),
    )


def memory_figures(student: ModelShape, step: Step, *, live_teacher: ModelShape | None = None) -> list[Figure]:
    """The parts of a step, and its peak; a live teacher adds its weights in the student's arithmetic."""
    found = step_memory(student, step)
    rows = [
        ("memory_weights", "weights", found.weights, "states"),
        ("memory_gradients", "gradients", found.gradients, "states"),
        ("memory_adam", "AdamW states", found.adam, "states"),
        ("memory_activations", "activations", found.activations, "activations"),
        ("memory_checkpointed", "activations with checkpointing", found.activations_checkpointed, "activations"),
        ("memory_head", "head, chunk by chunk", found.head, "head"),
        ("memory_dense_head", "head with a dense [N, V] loss", found.dense_head, "dense-head"),
    ]
    teacher = 0.0
    if live_teacher is not None:
        teacher = live_teacher.parameters * BYTES[step.precision]
        rows.append(("memory_teacher", "weights of a live teacher", teacher, "states"))
    rows.append(("memory_peak", "peak of the step", found.peak + teacher, "peak"))
    rows.append(("memory_dense_peak", "peak with a dense [N, V] loss", found.dense_peak + teacher, "peak"))
    return [Figure(key=key, label=label, value=value, unit="B", formula=name) for key, label, value, name in rows]
