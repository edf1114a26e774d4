"""Options of the filters that read the text alone. No torch import."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from distill_core.errors import DataError
from distill_core.options import Options, SourceRef

Part = Literal["all", "prompt", "answer"]

PiiKind = Literal[
    "email",
    "phone",
    "iban",
    "card",
    "ip",
    "us-ssn",
    "gb-nino",
    "fr-nir",
    "es-dni",
    "ch-ahv",
]
ALL_PII: tuple[PiiKind, ...] = PiiKind.__args__  # type: ignore[attr-defined]


class PartOptions(Options):
    """Options of a filter that looks at a part of a record."""

    part: Part = Field(
        default="all",
        description="what is looked at. all: every text of the record; prompt: what comes before the answer; answer: "
        "the completion, the assistant's last turn, or the whole of a plain text",
    )


class ExactDedupOptions(Options):
    """Options of ``exact-dedup``."""

    ignore: Literal["nothing", "whitespace"] = Field(
        default="nothing", description="whitespace: runs of spaces and newlines count as one space"
    )


class MinhashDedupOptions(PartOptions):
    """Options of ``minhash-dedup``."""

    threshold: float = Field(default=0.8, gt=0, le=1, description="estimated Jaccard similarity of near duplicates")
    ngram: PositiveInt = Field(default=5, description="length of the n-grams that make a text's set")
    unit: Literal["words", "characters"] = Field(default="words", description="what the n-grams are of")
    permutations: int = Field(
        default=128, ge=16, description="hash functions: the estimate's standard error is at most 0.5 / sqrt of it"
    )
    seed: NonNegativeInt = Field(default=1, description="of the hash functions")


class LengthOptions(PartOptions):
    """Options of ``length``."""

    unit: Literal["characters", "words", "tokens"] = Field(
        default="characters", description="tokens: of the student's tokenizer"
    )
    min: NonNegativeInt | None = Field(default=None, description="shortest text kept")
    max: NonNegativeInt | None = Field(default=None, description="longest text kept")

    @model_validator(mode="after")
    def _bounded(self) -> LengthOptions:
        if self.min is None and self.max is None:
            raise ValueError("neither min nor max is given, so nothing would be dropped: give one of them, or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} lies above max {self.max}: nothing can be in between")
        return self

    @classmethod
    def example(cls, directory: Path) -> LengthOptions:
        return cls(min=3, max=200)


class DecontaminationOptions(PartOptions):
    """Options of ``decontamination``."""

    against: dict[str, SourceRef] = Field(
        min_length=1,
        description="name of an evaluation set -> its source, e.g. {use: jsonl, path: ...}, or a file: .jsonl and "
        ".jsonl.gz are read row by row, any other file is one document",
    )
    ngram: PositiveInt = Field(default=13, description="words of an n-gram")
    share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of an evaluation document's n-grams that a record may hold; 0: none at all",
    )
    shortest_words: PositiveInt = Field(
        default=8,
        description="evaluation documents shorter than an n-gram are looked for as a whole, down to this length; "
        "shorter ones are passed over, and counted in a message",
    )

    @field_validator("against", mode="before")
    @classmethod
    def _files_are_sources(cls, against: object) -> object:
        if not isinstance(against, dict):
            return against
        return {name: source_of_file(given) if isinstance(given, str) else given for name, given in against.items()}

    @classmethod
    def example(cls, directory: Path) -> DecontaminationOptions:
        path = directory / "evaluation.jsonl"
        path.write_text('{"text": "The state of the union is strong."}\n', encoding="utf-8")
        return cls.model_validate({"against": {"speeches": str(path)}, "ngram": 5})


def source_of_file(path: str) -> dict[str, object]:
    """The source that reads a file: rows of JSON lines, else the whole file as one document."""
    if path.endswith((".jsonl", ".jsonl.gz")):
        return {"use": "jsonl", "path": path}
    return {"use": "text-files", "paths": [path]}


class LanguageOptions(PartOptions):
    """Options of ``language``."""

    keep: list[str] = Field(min_length=1, description="ISO 639-1 codes of the languages that stay, e.g. [en, de]")
    min_confidence: float = Field(
        default=0.5, ge=0, le=1, description="smallest probability of the language, among all that are known"
    )
    shortest_characters: PositiveInt = Field(
        default=20, description="texts with fewer letters cannot be told: `short` says what happens to them"
    )
    short: Literal["keep", "drop"] = Field(default="keep", description="texts that are too short to tell")

    @field_validator("keep", mode="before")
    @classmethod
    def _one_or_many(cls, keep: object) -> object:
        return [keep] if isinstance(keep, str) else keep

    def problems(self) -> list[str]:
        """A library that is not there, or a language that it does not know."""
        from distill_synthesis.filters.language import INSTALL, known_languages

        if find_spec("py3langid") is None:
            return [f"use: {INSTALL}"]
        unknown = sorted(set(self.keep) - set(known_languages()))
        return [] if not unknown else [f"keep: {unknown_languages(unknown, known_languages())}"]

    @classmethod
    def example(cls, directory: Path) -> LanguageOptions:
        return cls(keep=["en"])


def unknown_languages(unknown: list[str], known: list[str]) -> str:
    """The sentence about codes that the library does not know."""
    return f"no language {', '.join(map(repr, unknown))} is known; give ISO 639-1 codes of {', '.join(known)}"


class PiiOptions(PartOptions):
    """Options of ``pii``."""

    kinds: list[PiiKind] = Field(
        default_factory=lambda: list(ALL_PII), min_length=1, description="what is looked for; default: all of them"
    )
    allowed: NonNegativeInt = Field(default=0, description="so many findings may be in a record")


class PiiRedactOptions(Options):
    """Options of the transform ``pii-redact``."""

    kinds: list[PiiKind] = Field(
        default_factory=lambda: list(ALL_PII), min_length=1, description="what is replaced; default: all of them"
    )
    replacement: str = Field(
        default="[{kind}]", description="what stands in its place; {kind} becomes EMAIL, PHONE, ..."
    )

    @field_validator("replacement")
    @classmethod
    def _plain(cls, replacement: str) -> str:
        if "{" in replacement.replace("{kind}", "") or "}" in replacement.replace("{kind}", ""):
            raise ValueError(f"{replacement!r} has braces other than {{kind}}: leave them out")
        return replacement


class SafetyListOptions(PartOptions):
    """Options of ``safety-list``."""

    file: str = Field(
        description="text file with a word or phrase a line; empty lines and lines that start with # are passed over"
    )
    allowed: NonNegativeInt = Field(default=0, description="so many findings may be in a record")

    def files(self) -> list[str]:
        """What is read."""
        return [self.file]

    def problems(self) -> list[str]:
        """A file that is not there, cannot be read, or has no entry."""
        from distill_synthesis.filters.safety_list import read_entries

        try:
            read_entries(Path(self.file).expanduser())
        except DataError as error:
            return [f"file: {error}"]
        return []

    @classmethod
    def example(cls, directory: Path) -> SafetyListOptions:
        path = directory / "words.txt"
        path.write_text("# an example\nstrong\nnaïve café\n", encoding="utf-8")
        return cls(file=str(path))
