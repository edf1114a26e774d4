"""Options of the on-policy rollout and of the objectives that learn from what it writes. No torch import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from distill_core.options import ObjectiveOptions, Options, ScheduleRef
from distill_core.plugin import Needs

Share = Annotated[float, Field(ge=0, le=1)] | ScheduleRef


class LengthCurriculum(Options):
    """Responses start short and grow while the teacher is sure of itself on what is written."""

    start_tokens: PositiveInt = Field(description="longest response in the first step")
    step_tokens: PositiveInt = Field(default=16, description="by how much it grows when the gate is open")
    max_entropy: PositiveFloat = Field(
        description="the gate, in nat: it is open while the teacher's mean entropy on the last step_tokens tokens of "
        "full-length responses is at most this"
    )


class OnPolicyOptions(Options):
    """Options of ``on-policy``."""

    student_share: Share = Field(default=1.0, description="share of sequences that the student writes, or a schedule")
    teacher_share: Share = Field(
        default=0.0,
        description="share of sequences that the teacher writes, or a schedule; the rest are the data's",
    )
    pairs: bool = Field(
        default=False, description="two sequences for every prompt, the teacher's and the student's; shares stay unset"
    )
    teacher_mix: Share = Field(
        default=0.0,
        description="share of the teacher in the distribution that the student's sequences are drawn from, token by "
        "token, or a schedule",
    )
    max_new_tokens: PositiveInt = Field(default=64, description="longest response; shorter where the end token comes")
    prefix_tokens: PositiveInt | None = Field(
        default=None, description="tokens of a sequence without a prompt that serve as one; needed for plain text"
    )
    temperature: PositiveFloat = Field(default=1.0, description="softmax temperature of what is written")
    top_k: PositiveInt | None = Field(default=None, description="draw from so many most likely tokens; default: all")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="draw from the smallest set of tokens with this probability; 1: all"
    )
    score: bool = Field(
        default=False,
        description="student and teacher read every sequence and note the log-probabilities of its tokens: one more "
        "forward pass of each; minillm and the adaptive distillm-2 need it",
    )
    length_curriculum: LengthCurriculum | None = Field(
        default=None, description="responses that grow up to max_new_tokens, gated by the teacher's entropy"
    )
    generation_batch: PositiveInt = Field(default=32, description="sequences written at a time")

    @model_validator(mode="after")
    def _consistent(self) -> OnPolicyOptions:
        if self.pairs and {"student_share", "teacher_share"} & self.model_fields_set:
            raise ValueError("pairs has both write for every prompt: leave student_share and teacher_share out")
        shares = (self.student_share, self.teacher_share)
        if all(isinstance(share, float) for share in shares) and sum(shares) > 1:  # type: ignore[arg-type]
            raise ValueError(
                f"student_share {shares[0]} and teacher_share {shares[1]} add up to more than 1: lower one "
                "(student_share is 1 by default)"
            )
        if self.length_curriculum is not None and self.length_curriculum.start_tokens > self.max_new_tokens:
            raise ValueError(
                f"length_curriculum.start_tokens is {self.length_curriculum.start_tokens}, above max_new_tokens "
                f"{self.max_new_tokens}, which is where the curriculum ends"
            )
        return self

    @property
    def student_writes(self) -> bool:
        """Whether some sequence may be the student's."""
        return self.pairs or self.student_share != 0

    @property
    def teacher_writes(self) -> bool:
        """Whether some sequence may be the teacher's."""
        return self.pairs or self.teacher_share != 0

    @property
    def teacher_for(self) -> list[str]:
        """Options that need a teacher."""
        asked = {
            "teacher_share": self.teacher_share != 0,
            "pairs": self.pairs,
            "teacher_mix": self.teacher_mix != 0,
            "score": self.score,
            "length_curriculum": self.length_curriculum is not None,
        }
        return [name for name, needed in asked.items() if needed]

    @property
    def notes_teacher(self) -> bool:
        """Whether the teacher's log-probabilities of the student's tokens are noted."""
        return self.score or self.teacher_mix != 0


class MiniLLMOptions(ObjectiveOptions):
    """Options of ``minillm``."""

    single_step: bool = Field(
        default=True, description="take the expectation over the next token exactly instead of from the sampled one"
    )
    length_norm: bool = Field(
        default=True, description="divide the return of a token by the number of tokens it sums over"
    )
    importance: Literal["token", "sequence", "none"] = Field(
        default="token",
        description="weights for sequences that were not drawn from the student alone: ratio at the token (the paper), "
        "product over the prefix (unbiased, larger variance), or none",
    )

    def needs(self, declared: Needs) -> Needs:
        if not self.single_step:
            return Needs(signals=frozenset(), targets=())
        return Needs(signals=declared.signals, targets=declared.targets, temperatures=(1.0,))


class DistiLLM2Options(ObjectiveOptions):
    """Options of ``distillm-2``."""

    alpha: float = Field(default=0.1, gt=0, lt=1, description="share of the first distribution in the mixtures")
    adaptive_alpha: bool = Field(
        default=False, description="a smaller alpha of its own for every easy sequence; the rollout needs score: true"
    )
    beta: NonNegativeFloat | ScheduleRef = Field(
        default=1.0,
        description="factor of the student's responses; the teacher's get 2 - beta; from 0 to 2, or a schedule",
    )

    @model_validator(mode="after")
    def _in_range(self) -> DistiLLM2Options:
        if isinstance(self.beta, float) and self.beta > 2:
            raise ValueError(f"beta is {self.beta}; expected at most 2: the teacher's responses get 2 - beta")
        return self

    def needs(self, declared: Needs) -> Needs:
        return Needs(signals=declared.signals, targets=declared.targets, temperatures=(1.0,))
