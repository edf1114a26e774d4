"""Which layers of student and teacher are compared, through which projections: what feature-level objectives share.

Legend: B sequences, T positions, N compared positions, L layers (blocks), P pairs of layers, S student width, D teacher
width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import LossTerm, StudentView, TeacherSignals, TokenBatch
from distill_objectives.features.positions import Positions


def layer_pairs(
    layers: Literal["uniform", "last"] | Sequence[tuple[int, int]],
    student_layers: int,
    teacher_layers: int,
    *,
    name: str = "hidden-mse",
    first: Literal[0, 1] = 0,
) -> list[tuple[int, int]]:
    """Pairs (student, teacher) of layers to compare; i is block i, from 1; 0 are the embeddings.

    ``uniform`` is TinyBERT's map g(i) = i L_t / L_s, rounded, for i = 1 ... L_s.

    Args:
        first: smallest number that exists: 0 for hidden states, 1 for attentions.
        name: the objective, for messages.

    Raises:
        SignalError: a pair names a layer that does not exist.

    >>> layer_pairs("uniform", 2, 6), layer_pairs("last", 2, 6)
    ([(1, 3), (2, 6)], [(2, 6)])
    """
    if isinstance(layers, str):
        if layers == "last":
            return [(student_layers, teacher_layers)]
        return [(i, round(i * teacher_layers / student_layers)) for i in range(1, student_layers + 1)]
    pairs = [(int(student), int(teacher)) for student, teacher in layers]
    for student, teacher in pairs:
        if not (first <= student <= student_layers and first <= teacher <= teacher_layers):
            what = "hidden states 0 .. {} and the teacher 0 .. {} (0: the embeddings)"
            if first == 1:
                what = "blocks 1 .. {} and the teacher 1 .. {}"
            raise SignalError(
                f"{name}: layers names the pair [{student}, {teacher}], but the student has "
                f"{what.format(student_layers, teacher_layers)}"
            )
    return pairs


def text_config(config: Any) -> Any:
    """The part of a Transformers configuration that describes the language model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def depth_and_width(config: Any) -> tuple[int, int]:
    """Number of blocks and hidden size."""
    text = text_config(config)
    return int(text.num_hidden_layers), int(text.hidden_size)


def teacher_config(name: str, ctx: BuildContext, signals: str) -> Any:
    """The teacher's configuration.

    Raises:
        SignalError: it has none, as a store.
    """
    if ctx.teacher_config is None:
        raise SignalError(
            f"{name} needs the teacher's {signals}, but the teacher has no Transformers configuration (a store keeps "
            f"none): set train.teacher: live with a teacher that provides {signals.replace(' ', '_')}"
        )
    return ctx.teacher_config


class Projection(nn.Linear):
    """A linear map without bias, drawn at scale 1 / sqrt(width), that computes in the dtype of its input."""

    def __init__(self, width: int, target: int, *, generator: torch.Generator, device: torch.device) -> None:
        super().__init__(width, target, bias=False)
        with torch.no_grad():
            self.weight.normal_(0.0, width**-0.5, generator=generator)
        self.to(device)

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight.to(input.dtype))


class HiddenObjective(nn.Module):
    """Compares hidden states at pairs of layers; a subclass says how (:meth:`compare`).

    The value is the mean over the pairs of layers of what ``compare`` sums over the positions. With ``layers: learned``
    each student block has a convex combination of all teacher blocks as its target, with softmax weights that are
    trained along, uniform at first and the same at every position. Projections and these weights are kept in
    checkpoints and not exported. Computed in fp32, outside autocast.

    Args:
        options: has ``layers``, ``positions`` and, where ``projects``, ``projection``.
    """

    exported = False
    name: ClassVar[str]
    projects: ClassVar[bool] = False
    """Whether the student is compared in the teacher's space, so that widths must agree or be projected."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.options = options
        self.properties = {"zero_at_equality": options.layers != "learned", "nonnegative": True}
        self.pairs: list[tuple[int, int]] = []
        self.learned = options.layers == "learned"
        self.projections = nn.ModuleList()
        self.register_parameter("layer_scores", None)
        self.depths = (0, 0)

    def build(self, ctx: BuildContext) -> None:
        """Choose the layers and make the projections, from the run's seed, on the student's device, in fp32."""
        config = teacher_config(self.name, ctx, "hidden states")
        student_layers, student_width = depth_and_width(ctx.student.config)
        teacher_layers, teacher_width = depth_and_width(config)
        self.depths = (student_layers, teacher_layers)
        device = next(ctx.student.parameters()).device
        layers = "uniform" if self.learned else self.options.layers
        self.pairs = layer_pairs(layers, student_layers, teacher_layers, name=self.name)
        if self.learned:
            self.layer_scores = nn.Parameter(torch.zeros(len(self.pairs), teacher_layers, device=device))
        self.projections = nn.ModuleList()
        self.make_projections(student_width, teacher_width, torch.Generator().manual_seed(ctx.seed), device)

    def make_projections(
        self, student_width: int, teacher_width: int, generator: torch.Generator, device: torch.device
    ) -> None:
        """One projection per pair of layers into the teacher's space, where ``projection`` asks for it."""
        if not self.projects:
            return
        if self.options.projection == "none" and student_width != teacher_width:
            raise SignalError(
                f"{self.name}: the student's hidden states have {student_width} dimensions and the teacher's "
                f"{teacher_width}; projection: none needs equal widths, use projection: auto"
            )
        if self.options.projection == "linear" or student_width != teacher_width:
            for _ in self.pairs:
                self.projections.append(Projection(student_width, teacher_width, generator=generator, device=device))

    def count(self, batch: TokenBatch) -> float:
        """Positions that are compared."""
        return float(len(Positions.of(batch, self.options.positions)))

    def compare(self, student_NS: Tensor, teacher_ND: Tensor, at: Positions, batch: TokenBatch, pair: int) -> Tensor:
        """The sum over the positions for one pair of layers: a scalar. The teacher carries no gradient."""
        raise NotImplementedError

    def forward(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        """The sum over the batch's positions, and each pair's part of it as a metric."""
        self._check(student, teacher)
        with torch.autocast(student.hidden_states[-1].device.type, enabled=False):
            at = Positions.of(batch, self.options.positions)
            targets, names = self._targets(teacher, at)
            terms = []
            for index, ((i, _), target_ND) in enumerate(zip(self.pairs, targets, strict=True)):
                own_NS = at.select(student.hidden_states[i])
                projected = self.projects and len(self.projections)
                own_NS = self.projections[index](own_NS) if projected else own_NS
                terms.append(self.compare(own_NS, target_ND, at, batch, index))
            metrics = {name: float(term.detach()) for name, term in zip(names, terms, strict=True)}
            return LossTerm(total=torch.stack(terms).sum() / len(terms), metrics=metrics)

    def _check(self, student: StudentView, teacher: TeacherSignals) -> None:
        if not self.pairs:
            raise RuntimeError(f"{self.name}: call build(ctx) before the first batch")
        if teacher.hidden_states is None:
            raise SignalError(f"{self.name} needs the teacher's hidden states, but the teacher sent none")
        found = (len(student.hidden_states) - 1, len(teacher.hidden_states) - 1)
        if found != self.depths:
            raise SignalError(
                f"{self.name}: hidden states of {found[0]} student and {found[1]} teacher blocks came, but the "
                f"configurations say {self.depths[0]} and {self.depths[1]}"
            )
        shapes = (student.hidden_states[-1].shape[:2], teacher.hidden_states[-1].shape[:2])
        refuse_other_tokens(self.name, *shapes)

    def _targets(self, teacher: TeacherSignals, at: Positions) -> tuple[list[Tensor], list[str]]:
        """Per pair of layers the teacher's [N, D] and a name for metrics."""
        assert teacher.hidden_states is not None
        if not self.learned:
            chosen = [at.select(teacher.hidden_states[j]).detach() for _, j in self.pairs]
            return chosen, [f"layer_{i}_to_{j}" for i, j in self.pairs]
        states_LND = torch.stack([at.select(state).detach() for state in teacher.hidden_states[1:]])
        weights_PL = self.layer_scores.to(states_LND.dtype).softmax(dim=-1)
        mixed_PND = torch.einsum("pl,lnd->pnd", weights_PL, states_LND)
        return list(mixed_PND), [f"layer_{i}_to_mixture" for i, _ in self.pairs]

    def __call__(self, student: StudentView, teacher: TeacherSignals, batch: TokenBatch) -> LossTerm:
        result: LossTerm = super().__call__(student, teacher, batch)
        return result


def refuse_other_tokens(name: str, student_BT: torch.Size, teacher_BT: torch.Size) -> None:
    """Features are compared position by position: both sides must have read the same tokens."""
    if student_BT != teacher_BT:
        raise SignalError(
            f"{name}: the student's features have {list(student_BT)} [sequences, positions] and the teacher's "
            f"{list(teacher_BT)}; both must read the same tokens: use a teacher with the student's tokenizer"
        )
