"""The prompt of a question: a Jinja template that must show the question."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_core.errors import DataError

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
        import jinja2
        from jinja2 import meta, sandbox

        self.path = PACKAGED if path is None else path
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the prompt template {self.path} cannot be read: {error}") from None
        environment = sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
        try:
            variables = meta.find_undeclared_variables(environment.parse(text))
            self._template = environment.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"{self.path}:{error.lineno}: no Jinja template: {error.message}") from None
        if unknown := sorted(variables - set(VARIABLES)):
            raise DataError(f"{self.path} uses {', '.join(unknown)}; a prompt is given {', '.join(VARIABLES)}")
        self.shows_hint = "hint" in variables
        if _PROBE not in self.render(_PROBE, examples=()):
            raise DataError(
                f"{self.path} does not show the question: write {{{{ question }}}} where it belongs, or every prompt "
                "asks the same"
            )
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def render(self, question: str, *, examples: Sequence[Mapping[str, Any]], hint: str = "") -> str:
        import jinja2

        try:
            return self._template.render(question=question, examples=list(examples), hint=hint).rstrip("\n")
        except jinja2.TemplateError as error:
            raise DataError(f"{self.path}: the template fails: {error}") from None
