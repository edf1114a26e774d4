"""What a judge is asked about a record: a Jinja template that must show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.asking.template import Template
from distill_synthesis.filters.record_text import text_of

PACKAGED = Path(__file__).with_name("judge.j2")
VARIABLES = ("text", "prompt", "answer", "record", "low", "high")


class Rubric:
    """A template file; text of the record is put in as it is.

    >>> "from 1 to 5" in Rubric(None).render({"text": "A text."}, part="all", low=1, high=5)
    True

    Raises:
        DataError: no such file, no Jinja, unknown variables, or the record is not shown.
    """

    def __init__(self, path: Path | None) -> None:
        self._template = Template(PACKAGED if path is None else path, variables=VARIABLES, trim=True)
        self.path = self._template.path
        if not self._template.used & {"text", "prompt", "answer", "record"}:
            raise DataError(
                f"{self.path} does not show the record: write {{{{ text }}}}, or {{{{ prompt }}}} and {{{{ answer }}}} "
                "where it belongs, or every judgement is about the same"
            )

    def render(self, record: Mapping[str, Any], *, part: Any, low: float, high: float) -> str:
        """The question about a record.

        Raises:
            DataError: the template fails on it.
        """
        try:
            return self._template.render(
                text=text_of(record, part),
                prompt=text_of(record, "prompt"),
                answer=text_of(record, "answer"),
                record=record,
                low=f"{low:g}",
                high=f"{high:g}",
            )
        except DataError as error:
            raise DataError(f"the rubric fails on document {record.get('document', '?')}: {error}") from None
