"""``@divergence``: a function of two [n, K+1] log-probability tensors becomes a fused row objective.

Legend: n rows of a chunk, K support size; column K is the tail.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor

from distill_core.options import DivergenceOptions, ScheduleRef
from distill_core.types import LOG_FLOOR, RowInfo, RowTarget, SupportLogits

DivergenceFunction = Callable[..., Tensor]

PROPERTIES = ("zero_at_equality", "nonnegative", "lower_bound", "exact_gradient")
"""Properties an objective may declare; the conformance kit tests those declared."""


def on_simplex(target: RowTarget, support: SupportLogits, temperature: float) -> tuple[Tensor, Tensor]:
    """Teacher and student log-probabilities [n, K+1] on the k+1 simplex, without -inf on both sides.

    Outcomes impossible on both sides (padding, an empty complement) stand at log 1e-30 on both and carry no gradient.
    A teacher probability of exactly 0 stands at log 1e-30; so does the student's, there only where the teacher's is
    impossible too.
    """
    teacher_nK1 = target.log_probs(temperature)
    student_nK1 = support.log_probs(temperature)
    impossible = torch.isneginf(teacher_nK1) & torch.isneginf(student_nK1.detach())
    floor = torch.full_like(student_nK1, LOG_FLOOR)
    student_nK1 = torch.where(impossible, floor, student_nK1)
    return teacher_nK1.clamp_min(LOG_FLOOR).to(student_nK1.dtype), student_nK1


def check_same_rows(support: SupportLogits, target: RowTarget) -> None:
    """Raise if teacher and student do not speak of the same rows and outcomes, before anything is broadcast.

    Raises:
        ValueError: names ``target`` and ``support`` and both shapes.
    """
    if tuple(target.ids_NK.shape) != tuple(support.ids_NK.shape):
        raise ValueError(
            f"target has ids_NK of shape {tuple(target.ids_NK.shape)}, but support has {tuple(support.ids_NK.shape)}: "
            "both must hold the same rows and the same support (support.fold(target.ids_NK) cuts a larger one)"
        )


class DivergenceObjective:
    """A divergence with its options: what the engine runs. Made by :meth:`Divergence.from_options`."""

    extras: tuple[str, ...] = ()

    def __init__(self, divergence: Divergence, options: DivergenceOptions) -> None:
        self.divergence = divergence
        self.options = options
        fields = set(type(options).model_fields) - set(DivergenceOptions.model_fields)
        self._keywords = {name: getattr(options, name) for name in sorted(fields)}
        self._schedules: dict[str, Callable[[int, int], float]] = {}

    @property
    def linear_in_teacher(self) -> bool:
        return self.divergence.linear_in_teacher

    @property
    def properties(self) -> Mapping[str, bool]:
        """What holds with these options: the divergence's, refined by ``properties(declared)`` of its options model."""
        refine = getattr(self.options, "properties", None)
        declared = self.divergence.properties
        return refine(declared) if callable(refine) else declared

    def build(self, ctx: Any) -> None:
        """Build the schedules: of the temperature, and of any option of its own that is one."""
        for name in ("temperature", *self._keywords):
            value = getattr(self.options, name)
            if isinstance(value, ScheduleRef):
                self._schedules[name] = ctx.build("schedule", {"use": value.use, **value.options})

    def _at(self, name: str, step: int, total_steps: int) -> Any:
        """An option's value at a step: a schedule's, or the option itself."""
        value = getattr(self.options, name)
        if not isinstance(value, ScheduleRef):
            return value
        if name not in self._schedules:
            raise RuntimeError(f"the {name} is a schedule: call build(ctx) before the first step")
        return float(self._schedules[name](step, total_steps))

    def temperature(self, step: int, total_steps: int) -> float:
        return float(self._at("temperature", step, total_steps))

    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (self.temperature(step, total_steps),)

    def view(self, target: RowTarget) -> RowTarget:
        return target.head() if self.options.view == "head" else target

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] values in nat (or the divergence's own unit)."""
        if target is None:
            raise ValueError(f"{self.divergence.name} compares with a teacher, but no target was given")
        check_same_rows(support, target)
        temperature = self.temperature(rows.step, rows.total_steps)
        if target.kind == "sampled":
            return self._sampled(support, target, temperature)
        teacher_nK1, student_nK1 = on_simplex(target, support, temperature)
        value_n = self.divergence.function(teacher_nK1, student_nK1, **self.keywords(support, rows))
        if value_n.shape != student_nK1.shape[:1]:
            raise ValueError(
                f"{self.divergence.name} returned a tensor of shape {tuple(value_n.shape)} for {len(student_nK1)} "
                "rows; a divergence returns one number per row: sum over the last dimension only"
            )
        return value_n

    def keywords(self, support: SupportLogits, rows: RowInfo) -> dict[str, Any]:
        """What the function gets beside the two distributions: its options at this step, schedules resolved.

        A subclass adds here what depends on the rows, such as their labels.
        """
        return {name: self._at(name, rows.step, rows.total_steps) for name in self._keywords}

    def _sampled(self, support: SupportLogits, target: RowTarget, temperature: float) -> Tensor:
        """Sampled weights in a loss linear in the teacher: value CE_w - H, gradient right on average.

        Sum_i w_i f(log q_i) is unbiased for sum_v p_v f(log q_v); linear losses are cross-entropies, so the value is
        -sum w log q - H with the exact entropy H stored beside the sample (0 where it was not stored).
        """
        if not self.divergence.linear_in_teacher:
            raise ValueError(
                f"{self.divergence.name} is not linear in the teacher, so sampled weights would bias it: use "
                "view: head (threshold sampling) or capture with method: topk"
            )
        fields = type(self.options).model_fields
        changed = {name: value for name, value in self._keywords.items() if value != fields[name].default}
        if changed:
            raise ValueError(
                f"{self.divergence.name} was given {changed}, but sampled weights admit its plain form alone, "
                "cross-entropy minus entropy, which would leave that unread: use view: head, or capture with "
                "method: topk"
            )
        if temperature != target.temperatures[0]:
            raise ValueError(
                f"temperature {temperature} was asked for, but the sample was drawn at {target.temperatures[0]} and "
                "serves that one alone"
            )
        assert target.weights_NK is not None
        weights_nK = target.weights_NK.to(support.support_NK.dtype)
        student_nK = support.log_probs(temperature)[:, :-1]
        student_nK = torch.where(target.ids_NK >= 0, student_nK, torch.zeros_like(student_nK))
        cross_entropy_n = -(weights_nK * student_nK).sum(dim=1)
        return cross_entropy_n if target.entropy_N is None else cross_entropy_n - target.entropy_N


class Divergence:
    """A named divergence; call it as the plain function it wraps, or build an objective from options."""

    def __init__(
        self, function: DivergenceFunction, *, linear_in_teacher: bool, properties: Mapping[str, bool]
    ) -> None:
        unknown = sorted(set(properties) - set(PROPERTIES))
        if unknown:
            raise ValueError(f"unknown divergence properties {unknown}; known: {list(PROPERTIES)}")
        if not callable(function) or not hasattr(function, "__name__"):
            raise TypeError(
                f"@divergence: expected a function f(teacher_logp, student_logp), which gives the objective its name; "
                f"got {type(function).__name__}"
            )
        try:
            inspect.signature(function).bind_partial(None, None)
        except TypeError:
            raise TypeError(
                f"@divergence: {function.__name__}{inspect.signature(function)} does not take two distributions; "
                "expected f(teacher_logp, student_logp), options as keywords"
            ) from None
        self.function = function
        self.name = function.__name__.replace("_", "-")
        self.linear_in_teacher = linear_in_teacher
        self.properties = {name: properties.get(name, True) for name in PROPERTIES}
        functools.update_wrapper(self, function)

    def __call__(self, teacher_logp: Tensor, student_logp: Tensor, **options: Any) -> Tensor:
        return self.function(teacher_logp, student_logp, **options)

    def from_options(self, options: DivergenceOptions) -> DivergenceObjective:
        return DivergenceObjective(self, options)


@overload
def divergence(function: DivergenceFunction, /) -> Divergence: ...
@overload
def divergence(
    *, linear_in_teacher: bool = False, **properties: bool
) -> Callable[[DivergenceFunction], Divergence]: ...
def divergence(
    function: DivergenceFunction | None = None, /, *, linear_in_teacher: bool = False, **properties: bool
) -> Divergence | Callable[[DivergenceFunction], Divergence]:
    """Turn ``f(teacher_logp, student_logp, **options) -> [n]`` into a row objective.

    Args:
        function: takes two [n, K+1] log-probability tensors (last column: the tail; never -inf on both sides) and the
            extra fields of its options model as keywords; returns [n].
        linear_in_teacher: the loss is a cross-entropy of the teacher up to a constant (forward KL), so unbiased
            sampled weights are admitted.
        properties: ``zero_at_equality``, ``nonnegative``, ``lower_bound``, ``exact_gradient``: pass False for one
            that does not hold. The conformance kit tests the rest.

    >>> import torch
    >>> @divergence
    ... def total_variation(teacher_logp, student_logp):
    ...     return 0.5 * (teacher_logp.exp() - student_logp.exp()).abs().sum(-1)
    >>> total_variation(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 1e-30]]).log())
    tensor([0.5000])
    """
    if function is None:
        return lambda wrapped: Divergence(wrapped, linear_in_teacher=linear_in_teacher, properties=properties)
    return Divergence(function, linear_in_teacher=linear_in_teacher, properties=properties)
