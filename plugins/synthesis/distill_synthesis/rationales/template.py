"""The prompt of a question: a Jinja template that must show the question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.asking.template import Template

PACKAGED = Path(__file__).with_name("few_shot.j2")
VARIABLES = ("question", "examples", "hint")
_PROBE = "\u2063the question\u2063"


class PromptTemplate:
    """A template file.

    >>> PromptTemplate(None).render("What is 1 + 1?", examples=())
    'Question: What is 1 + 1?\\nSteps:'

    Raises:
        DataError: no such file, no Jinja, unknown variables, or the question is not shown.
    """

    def __init__(self, path: Path | None) -> None:
        self._template = Template(PACKAGED if path is None else path, variables=VARIABLES)
        self.path, self.digest = self._template.path, self._template.digest
        self.shows_hint = "hint" in self._template.used
        if _PROBE not in self.render(_PROBE, examples=()):
            raise DataError(
                f"{self.path} does not show the question: write {{{{ question }}}} where it belongs, or every prompt "
                "asks the same"
            )

    def render(self, question: str, *, examples: Sequence[Mapping[str, Any]], hint: str = "") -> str:
        return self._template.render(question=question, examples=list(examples), hint=hint)
