"""The on-policy rollout and its objectives declared, and what is known to be wrong before a run. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distill_core.plugin import Component, component, objective

if TYPE_CHECKING:
    from distill_objectives.rollouts.options import OnPolicyOptions


def on_policy_components() -> Sequence[Component]:
    options = "distill_objectives.rollouts.options"
    return [
        component(
            "rollout",
            "on-policy",
            "distill_objectives.rollouts.on_policy:OnPolicy",
            summary="student, teacher or both write the sequences of each step from the prompts of the data",
            options=f"{options}:OnPolicyOptions",
        ),
        objective(
            "minillm",
            "distill_objectives.minillm:MiniLLM",
            summary="reverse KL of whole sequences by policy gradient, on what the student writes",
            options=f"{options}:MiniLLMOptions",
        ),
        objective(
            "distillm-2",
            "distill_objectives.distillm_2:DistiLLM2",
            summary="contrastive: skew forward KL on the teacher's responses, skew reverse KL on the student's",
            options=f"{options}:DistiLLM2Options",
        ),
    ]


def on_policy_problems(plan: Any) -> Iterator[str]:
    """Sentences about trainings whose rollout and objectives do not fit together."""
    for name, training in plan.trainings().items():
        own = _own(training.rollout, "on-policy")
        written = None
        if own:
            from distill_objectives.rollouts.options import OnPolicyOptions

            written = OnPolicyOptions.model_validate(training.rollout.options)
            if training.teacher == "none" and written.teacher_for:
                yield (
                    f"training {name}: rollout on-policy with {', '.join(written.teacher_for)} asks a teacher, but "
                    "train.teacher is none: use teacher: live"
                )
        for reference in training.objectives:
            for method in ("minillm", "distillm-2"):
                if _own(reference, method):
                    yield from _objective_problems(name, method, training.rollout, written, reference)


def _own(reference: Any, name: str) -> bool:
    return reference is not None and reference.use in (name, f"objectives:{name}", f"distill-objectives:{name}")


def _objective_problems(
    training: str, method: str, rollout: Any, written: OnPolicyOptions | None, reference: Any
) -> Iterator[str]:
    at = f"training {training}: objective {method}"
    if rollout is None:
        yield f"{at} learns from what is written while training: add `rollout: {{use: on-policy}}` to the training"
    if written is None:
        return  # a rollout of somebody else; the objective looks at what its batches bring
    if method == "minillm" and not written.student_writes:
        yield f"{at} learns from the student's sequences, but rollout.student_share is 0"
    if method == "minillm" and not written.notes_teacher:
        yield (
            f"{at} reads the teacher's log-probabilities of what the student wrote: set rollout.teacher_mix above 0 "
            "(the paper's 0.2), or rollout.score: true"
        )
    if method == "distillm-2" and not (written.student_writes and written.teacher_writes):
        missing = "student" if not written.student_writes else "teacher"
        yield f"{at} contrasts two sources, but the {missing} writes nothing: set rollout.pairs: true, or both shares"
    if method == "distillm-2" and reference.options.get("adaptive_alpha") and not written.score:
        yield f"{at} with adaptive_alpha reads log-probabilities of whole sequences: set rollout.score: true"
