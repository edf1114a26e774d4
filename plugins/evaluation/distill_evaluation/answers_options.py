"""Options of the evaluator ``answers``; torch-free."""

from __future__ import annotations

from pydantic import Field, model_validator

from distill_core.options import CheckerRef
from distill_evaluation.asking_options import AskOptions, QuestionsOptions


def _ways() -> dict[str, AskOptions]:
    return {
        "direct": AskOptions(prompt="[label] {question}\n"),
        "rationale": AskOptions(
            prompt="[rationale] {question}\n", answer_pattern=r"Answer:\s*(?P<answer>[^\n]+)", max_new_tokens=64
        ),
    }


class AnswersOptions(QuestionsOptions):
    """Options of ``answers``."""

    checker: CheckerRef = Field(description="says whether an answer is right")
    ways: dict[str, AskOptions] = Field(
        default_factory=_ways, min_length=1, description="ways of asking by name; each is a metric"
    )
    trained_way: dict[str, str] = Field(
        default_factory=dict,
        description="which way a model was trained for, by its name; the metric answer_accuracy asks each in its own "
        "way; others are asked in the first one",
    )

    @model_validator(mode="after")
    def _known_ways(self) -> AnswersOptions:
        unknown = sorted(set(self.trained_way.values()) - set(self.ways))
        if unknown:
            raise ValueError(f"trained_way names {', '.join(unknown)}, but the ways are {', '.join(self.ways)}")
        return self
