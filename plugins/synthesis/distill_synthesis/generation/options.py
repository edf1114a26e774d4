"""Options of the synthesizers that write data. No torch import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from distill_core.errors import DataError
from distill_core.options import CheckerRef, Options, PartRef, with_group

if TYPE_CHECKING:
    from distill_synthesis.asking.template import Template

PROMPTS = Path(__file__).with_name("prompts")


@dataclass(frozen=True)
class Prompt:
    """A packaged template, what it is given, and what it must show."""

    variables: tuple[str, ...]
    shows: tuple[str, ...]


ANSWER = Prompt(("instruction",), ("instruction",))


class FilterRef(PartRef):
    """A filter component by name with its options inline: ``{use: exact-dedup}``."""

    KIND = "filter"

    use: str = Field(description="registered name of a filter")


class BudgetOptions(Options):
    """How much may be spent and made; what is left out has no limit."""

    tokens: int | None = Field(default=None, description="most tokens, read and written, over all attempts at the run")
    cost: float | None = Field(default=None, description="most money, in the currency of the teacher's prices")
    rows: int | None = Field(default=None, description="most records made")

    @field_validator("tokens", "cost", "rows")
    @classmethod
    def _not_nothing(cls, value: float | None) -> float | None:
        if value is not None and not value > 0:
            raise ValueError(f"a budget of {value:g} makes nothing: give more than 0, or leave it out for no limit")
        return value


class AnswerOptions(Options):
    """How the teacher answers the instructions that were made."""

    max_new_tokens: PositiveInt = Field(default=256, description="longest answer, in the teacher's tokens")
    temperature: NonNegativeFloat = Field(default=0.0, description="0: the most likely token each time")
    top_p: float = Field(default=1.0, gt=0, le=1, description="answers are drawn from this much probability")
    stop: list[str] = Field(default_factory=list, description="texts that end an answer")


class GenerationOptions(Options):
    """What every synthesizer of this room understands."""

    PROMPTS: ClassVar[dict[str, Prompt]] = {}
    """Its templates by name; the packaged ones are the files of these names."""

    teacher: str | None = Field(default=None, description="which teacher of the run file writes; default: the first")
    templates: dict[str, str] = Field(
        default_factory=dict, description="Jinja files in place of the packaged prompts, by the prompt's name"
    )
    ask_as: Literal["chat", "text"] = Field(
        default="chat", description="prompts are the user's turn of a chat, or plain text that is gone on with"
    )
    system: str | None = Field(default=None, description="chat: the system's turn before every prompt")
    max_new_tokens: PositiveInt = Field(default=256, description="longest text that is made, in the teacher's tokens")
    temperature: NonNegativeFloat = Field(default=1.0, description="of what is made; 0: the most likely token")
    top_p: float = Field(default=1.0, gt=0, le=1, description="what is made is drawn from this much probability")
    stop: list[str] = Field(default_factory=list, description="texts that end what is made")
    budget: BudgetOptions = Field(default_factory=BudgetOptions, description="limits: tokens, cost, rows")
    filters: list[FilterRef] = Field(default_factory=list, description="filters that every record must pass, in order")
    form: Literal["prompt", "messages"] = Field(
        default="prompt", description="of instruction records: prompt and completion, or messages"
    )
    window: PositiveInt = Field(default=64, description="requests handed to the teacher at a time")

    @model_validator(mode="after")
    def _known_templates(self) -> GenerationOptions:
        if unknown := sorted(set(self.templates) - set(self.PROMPTS)):
            raise ValueError(
                f"templates names {', '.join(unknown)}; the prompts here are {', '.join(self.PROMPTS) or 'none'}"
            )
        if self.system is not None and self.ask_as == "text":
            raise ValueError("system is the system's turn of a chat, but ask_as is text: write it into the templates")
        return self

    def template(self, name: str) -> Template:
        """The prompt of that name.

        Raises:
            DataError: the file cannot be used.
        """
        from distill_synthesis.asking.template import Template

        prompt = self.PROMPTS[name]
        return Template(self._path(name), variables=prompt.variables, shows=prompt.shows)

    def _path(self, name: str) -> Path:
        own = self.templates.get(name)
        return PROMPTS / f"{name}.j2" if own is None else Path(own).expanduser()

    def files(self) -> list[str]:
        """Every template that is read."""
        return [str(self._path(name)) for name in self.PROMPTS]

    def problems(self) -> list[str]:
        """Templates that are not there, are no Jinja, or never show what they are about."""
        found = []
        for name in self.PROMPTS:
            try:
                self.template(name)
            except DataError as error:
                found.append(f"templates.{name}: {error}")
        return found


_PICTURES = ("image", "images", "picture", "pictures", "graph", "graphs", "map", "maps", "draw", "plot")
_BEYOND_TEXT = (*_PICTURES, "file", "files", "go to")


class SelfInstructOptions(GenerationOptions):
    """Options of ``self-instruct``."""

    PROMPTS: ClassVar[dict[str, Prompt]] = {"instructions": Prompt(("tasks",), ("tasks",)), "answer": ANSWER}

    ask_as: Literal["chat", "text"] = Field(
        default="text", description="prompts are the user's turn of a chat, or plain text that is gone on with"
    )
    stop: list[str] = Field(default_factory=lambda: ["\n\n"], description="texts that end what is made")
    temperature: NonNegativeFloat = Field(default=0.7, description="of what is made; 0: the most likely token")
    top_p: float = Field(default=0.5, gt=0, le=1, description="what is made is drawn from this much probability")
    requests: PositiveInt = Field(default=100, description="how often the teacher is asked for new instructions")
    requests_per_round: PositiveInt = Field(
        default=8, description="requests that are made of the same pool; its growth shows in the next ones"
    )
    seed_examples: PositiveInt = Field(default=6, description="instructions of the source shown in a prompt")
    made_examples: int = Field(default=2, ge=0, description="instructions already made shown beside them")
    instructions_per_request: PositiveInt = Field(default=8, description="most instructions read from one text")
    max_similarity: float = Field(
        default=0.7, gt=0, le=1, description="an instruction whose ROUGE-L to one of the pool reaches this is dropped"
    )
    min_words: PositiveInt = Field(default=4, description="shortest instruction")
    max_words: PositiveInt = Field(default=150, description="longest instruction")
    banned_words: list[str] = Field(
        default_factory=lambda: list(_BEYOND_TEXT),
        description="instructions with one of these words are dropped: a language model cannot follow them",
    )
    answer_as: Literal["chat", "text"] = Field(
        default="chat", description="instructions are answered as the user's turn of a chat, or as plain text"
    )
    answer: AnswerOptions = Field(default_factory=AnswerOptions, description="how instructions are answered")


IN_DEPTH = {
    "constraints": "Add one more constraint or requirement to it.",
    "deepening": "If it asks about certain issues, increase the depth and breadth of the inquiry.",
    "concretizing": "Replace general concepts in it with more specific ones.",
    "reasoning": "If it can be solved in a few simple steps of thought, ask explicitly for several steps of reasoning.",
}
"""How a prompt is made harder (2304.12244, appendix A)."""

BREADTH = "breadth"


class EvolInstructOptions(GenerationOptions):
    """Options of ``evol-instruct``."""

    PROMPTS: ClassVar[dict[str, Prompt]] = {
        "in_depth": Prompt(("instruction", "operation"), ("instruction", "operation")),
        "in_breadth": Prompt(("instruction",), ("instruction",)),
        "equal": Prompt(("first", "second"), ("first", "second")),
        "answer": ANSWER,
    }

    generations: PositiveInt = Field(default=4, description="how often an instruction is evolved")
    operations: list[Literal["constraints", "deepening", "concretizing", "reasoning", "breadth"]] = Field(
        default_factory=lambda: [*IN_DEPTH, BREADTH], min_length=1, description="drawn from with equal probability"
    )
    equal_check: bool = Field(
        default=False, description="the teacher is asked whether the evolved instruction asks for more than the old one"
    )
    answer: AnswerOptions = Field(default_factory=AnswerOptions, description="how instructions are answered")


class MagpieOptions(GenerationOptions):
    """Options of ``magpie``."""

    PROMPTS: ClassVar[dict[str, Prompt]] = {"answer": ANSWER}

    count: PositiveInt = Field(default=100, description="instructions that are asked for")
    prefix: str | None = Field(
        default=None,
        description="what the teacher goes on with; default: its chat template up to where the user's text begins",
    )
    instruction_stop: list[str] | None = Field(
        default=None,
        description="texts that end an instruction; default: what the chat template writes after it, with a prefix a "
        "line end",
    )
    answer: AnswerOptions = Field(default_factory=AnswerOptions, description="how instructions are answered")

    @field_validator("prefix")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value == "":
            raise ValueError("an empty prefix cannot be gone on with: give a text, or leave it out for the template")
        return value


class AttributedPromptsOptions(GenerationOptions):
    """Options of ``attributed-prompts``."""

    PROMPTS: ClassVar[dict[str, Prompt]] = {
        "attributed": Prompt(("task", "label", "attributes"), ("task", "attributes"))
    }

    task: str = Field(description="what is to be written: `a news article`")
    attributes: dict[str, list[str]] = Field(description="values that are drawn from, by the attribute's name")
    labels: list[str] = Field(default_factory=list, description="classes, written in turn; none: no class")
    label_attributes: dict[str, dict[str, list[str]]] = Field(
        default_factory=dict, description="attributes of one class, beside or in place of the general ones"
    )
    count: PositiveInt = Field(default=100, description="texts that are asked for")

    @model_validator(mode="after")
    def _values(self) -> AttributedPromptsOptions:
        groups = [self.attributes, *self.label_attributes.values()]
        empty = sorted({name for group in groups for name, values in group.items() if not values})
        if empty:
            raise ValueError(f"the attributes {', '.join(empty)} have no values: list at least one")
        bare = [label for label in self.labels or [""] if not self.label_attributes.get(label)]
        if not self.attributes and bare:
            raise ValueError("no attributes: every prompt would ask the same; name at least one with its values")
        if unknown := sorted(set(self.label_attributes) - set(self.labels)):
            raise ValueError(f"label_attributes names {', '.join(unknown)}, which labels does not list")
        return self


class BackTranslationOptions(GenerationOptions):
    """Options of ``back-translation``."""

    PROMPTS: ClassVar[dict[str, Prompt]] = {
        "back_translation": Prompt(("text",), ("text",)),
        "curation": Prompt(("instruction", "answer"), ("instruction", "answer")),
    }

    temperature: NonNegativeFloat = Field(default=0.7, description="of what is made; 0: the most likely token")
    max_new_tokens: PositiveInt = Field(default=96, description="longest instruction, in the teacher's tokens")
    field: str = Field(default="text", description="field of the record with the text that is to be an answer")
    max_characters: PositiveInt = Field(default=4000, description="longer texts are left out")
    min_score: int | None = Field(
        default=None,
        ge=1,
        le=5,
        description="the teacher scores each pair from 1 to 5, and those from this on stay; default: nothing is scored",
    )
    score_pattern: str = Field(
        default=r"(?i)score:?\s*(?P<score>[1-5])\b", description="regular expression with a group `score`"
    )

    @field_validator("score_pattern")
    @classmethod
    def _has_score(cls, pattern: str) -> str:
        return with_group(pattern, "score")


class RejectionSamplingOptions(GenerationOptions):
    """Options of ``rejection-sampling``."""

    PROMPTS: ClassVar[dict[str, Prompt]] = {"sampled_answer": Prompt(("question", "record"), ("question",))}

    field: str = Field(default="question", description="field of the record with the question")
    samples: PositiveInt = Field(default=4, description="answers written per question")
    keep: PositiveInt = Field(default=1, description="right answers kept per question, all different, shortest first")
    checker: CheckerRef = Field(description="says which answers are right")
    accept: float = Field(default=1.0, ge=0, le=1, description="smallest score of a right answer")
    answer_pattern: str | None = Field(
        default=None,
        description="regular expression with a group `answer`, which the checker is given; default: the whole text",
    )

    @field_validator("answer_pattern")
    @classmethod
    def _has_answer(cls, pattern: str | None) -> str | None:
        return None if pattern is None else with_group(pattern, "answer")

    @model_validator(mode="after")
    def _samples_differ(self) -> RejectionSamplingOptions:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples is {self.samples} at temperature 0, where all samples are equal: set temperature above 0 or "
                "samples: 1"
            )
        return self
