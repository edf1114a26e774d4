"""Options of the sources. No torch import."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from distill_core.errors import DataError
from distill_core.options import Options
from distill_synthesis.file_search import find_files


class NumberRange(Options):
    """A number in the file name, e.g. a year, and the range it must lie in."""

    pattern: str = Field(
        default=r"(\d+)", description="regular expression on the file name; its first group is the number"
    )
    min: float | None = Field(default=None, description="smallest number kept")
    max: float | None = Field(default=None, description="largest number kept")

    @field_validator("pattern")
    @classmethod
    def _one_group(cls, pattern: str) -> str:
        if _compiled(pattern).groups < 1:
            raise ValueError(f"{pattern!r} has no group: put the number in parentheses, as in (\\d+)")
        return pattern

    @model_validator(mode="after")
    def _ordered(self) -> NumberRange:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} lies above max {self.max:g}: nothing can be in between")
        return self


class TextFilesOptions(Options):
    """Options of ``text-files``: which files, and what a document is."""

    paths: list[str] = Field(min_length=1, description="files, directories (all *.txt below) or globs (** goes deep)")
    package: str | None = Field(
        default=None, description="installed Python package whose directory the paths start from; it is not imported"
    )
    standard_library: bool = Field(
        default=False, description="paths start from the directory of the running Python's standard library"
    )
    include: str | None = Field(default=None, description="regular expression; keep files whose name it finds")
    exclude: str | None = Field(default=None, description="regular expression; drop files whose name it finds")
    number: NumberRange | None = Field(default=None, description="keep files by a number in their name, e.g. a year")
    documents: Literal["file", "line"] = Field(default="file", description="what a document is")
    encoding: str = Field(default="utf-8", description="how bytes become text")

    @field_validator("paths", mode="before")
    @classmethod
    def _one_or_many(cls, paths: object) -> object:
        return [paths] if isinstance(paths, str) else paths

    @field_validator("include", "exclude")
    @classmethod
    def _regular_expression(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            _compiled(pattern)
        return pattern

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            "".encode(encoding)
        except LookupError:
            raise ValueError(f"Python knows no encoding {encoding!r}; utf-8 is the usual one") from None
        return encoding

    @model_validator(mode="after")
    def _one_start(self) -> TextFilesOptions:
        if self.package is not None and self.standard_library:
            raise ValueError(
                f"two places to start from: received package: {self.package} and standard_library: true, leave one out"
            )
        return self

    def problems(self) -> list[str]:
        """A package or files that are not there, or a choice that leaves none."""
        try:
            find_files(self)
        except DataError as error:
            return [str(error)]
        return []


class FieldNames(Options):
    """Which fields of a row are what. Name ``messages``, or ``prompt`` and ``completion``, or leave it at ``text``."""

    text: str = Field(default="text", description="field with the text")
    prompt: str | None = Field(default=None, description="field with the prompt, which is not trained on")
    completion: str | None = Field(default=None, description="field with the completion")
    messages: str | None = Field(default=None, description="field with a list of {role, content}")
    document: str | None = Field(default=None, description="field with the document id; default: file name and line")
    domain: str | None = Field(default=None, description="field with the domain, e.g. to route by; default: none")
    fields: list[str] = Field(
        default_factory=list,
        description="further fields that records keep as they are, e.g. what a task reads; where no form is named "
        "beside them, a row need not have a text",
    )

    @model_validator(mode="after")
    def _one_form(self) -> FieldNames:
        if (self.prompt is None) != (self.completion is None):
            raise ValueError("prompt and completion belong together: give both, or neither")
        forms = [
            form for form in ("text", "prompt", "messages") if form in self.model_fields_set and getattr(self, form)
        ]
        if len(forms) > 1:
            raise ValueError(f"a row has one form, but fields are given for {' and '.join(forms)}")
        return self

    @property
    def wanted(self) -> dict[str, str]:
        """Record field -> row field."""
        if self.messages is not None:
            return {"messages": self.messages}
        if self.prompt is not None and self.completion is not None:
            return {"prompt": self.prompt, "completion": self.completion}
        return {} if self.keeps_text_if_there else {"text": self.text}

    @property
    def keeps_text_if_there(self) -> bool:
        """``fields`` say what is read, no form is named: a ``text`` that a row has is kept, none is asked for."""
        named = self.messages or self.prompt or "text" in self.model_fields_set
        return bool(self.fields) and not named


class JsonLinesOptions(FieldNames):
    """Options of ``jsonl``."""

    path: list[str] = Field(min_length=1, description="a .jsonl or .jsonl.gz file, or a list of them; globs allowed")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_many(cls, path: object) -> object:
        return [path] if isinstance(path, str) else path

    def problems(self) -> list[str]:
        """Files that are not there, and whatever is wrong with the first row of each."""
        from distill_synthesis.jsonl import first_row_problems

        return first_row_problems(self)


class HFDatasetOptions(FieldNames):
    """Options of ``hf-dataset``."""

    path: str = Field(description="hub id, or a directory written by `save_to_disk` or holding data files")
    name: str | None = Field(default=None, description="configuration of the dataset")
    split: str = Field(default="train", description="split, slices allowed: train[:1000]")
    revision: str | None = Field(default=None, description="hub revision: branch, tag or commit")

    def problems(self) -> list[str]:
        """A library or a directory that is not there."""
        from importlib.util import find_spec

        if find_spec("datasets") is None:
            return ["use: needs the library datasets: pip install 'distill-synthesis[datasets]'"]
        path = Path(self.path).expanduser()
        if self.path.startswith((".", "/", "~")) and not path.is_dir():
            return [f"path: there is no directory {path}; give a directory or a hub id"]
        return []


Column = int | str
"""A column: its number from 0, its name, or a range of numbers such as ``0:784``."""


class ClassPatterns(Options):
    """A class read off a column, e.g. a chapter off a code."""

    column: Column = Field(description="column to look at")
    field: str = Field(default="label", description="field of the record that gets the class")
    patterns: dict[str, str] = Field(
        min_length=1, description="class -> regular expression that the value starts with; the first that fits counts"
    )

    @field_validator("patterns")
    @classmethod
    def _regular_expressions(cls, patterns: dict[str, str]) -> dict[str, str]:
        for pattern in patterns.values():
            _compiled(pattern)
        return patterns


class TableOptions(Options):
    """Options of ``table``: which files, and which columns are what."""

    path: list[str] = Field(
        min_length=1, description="a .csv, .tsv or .json file (or .gz of one), or a list of them; globs allowed"
    )
    package: str | None = Field(
        default=None, description="installed Python package whose directory the paths start from; it is not imported"
    )
    header: bool = Field(default=True, description="whether the first row of CSV names the columns")
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="between columns; default: comma, or a tab in .tsv"
    )
    fields: dict[str, Column] = Field(
        min_length=1, description="field of a record -> column: a number from 0, a name, or a range 0:784 (a list)"
    )
    classes: ClassPatterns | None = Field(default=None, description="a class read off a column by patterns")
    only: dict[Column, str] = Field(default_factory=dict, description="column -> value (as text) of rows that are kept")
    document: Column | None = Field(default=None, description="column with the document id; default: file name and row")
    document_characters: PositiveInt | None = Field(
        default=None, description="the id is the first so many characters: rows that agree in them stay together"
    )
    part: Literal["all", "train", "eval"] = Field(
        default="all", description="which documents: dealt to train and eval by a hash of their id"
    )
    eval_share: float = Field(default=0.2, gt=0, lt=1, description="share of the documents in part: eval")

    @field_validator("path", mode="before")
    @classmethod
    def _one_or_many(cls, path: object) -> object:
        return [path] if isinstance(path, str) else path

    def problems(self) -> list[str]:
        """A package or files that are not there, and whatever is wrong with the first row."""
        from distill_synthesis.table import Table

        try:
            next(Table(self).records(), None)
        except DataError as error:
            return [str(error)]
        return []


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
