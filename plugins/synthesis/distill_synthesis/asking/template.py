"""A prompt: a Jinja template in a file, checked before it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from distill_core.errors import DataError


class Template:
    """A template file; it runs in Jinja's sandbox and is given ``variables``, nothing else.

    Args:
        path: of the file.
        variables: what a prompt may use.
        shows: what it must use.
        trim: lines that hold a block alone leave no line behind.

    Raises:
        DataError: no such file, no Jinja, a variable that is not given, or one of ``shows`` that is not used.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "ask.j2"
    >>> _ = path.write_text("Say {{ word }}.")
    >>> Template(path, variables=("word",), shows=("word",)).render(word="yes")
    'Say yes.'
    """

    def __init__(
        self, path: Path, *, variables: Collection[str], shows: Collection[str] = (), trim: bool = False
    ) -> None:
        import jinja2
        from jinja2 import meta, sandbox

        self.path, self.name = path, path.name
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the prompt template {path} cannot be read: {error}") from None
        environment = sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=trim, lstrip_blocks=trim
        )
        try:
            self.used = frozenset(meta.find_undeclared_variables(environment.parse(text)))
            self._template = environment.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise DataError(f"{path}:{error.lineno}: no Jinja template: {error.message}") from None
        if unknown := sorted(self.used - set(variables)):
            raise DataError(f"{path} uses {', '.join(unknown)}; a prompt is given {', '.join(variables)}")
        if missing := [name for name in shows if name not in self.used]:
            shown = ", ".join(f"{{{{ {name} }}}}" for name in missing)
            raise DataError(
                f"{path} does not show {', '.join(missing)}: write {shown} where it belongs, or every prompt asks the "
                "same"
            )
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def render(self, **values: Any) -> str:
        """The prompt, without line ends behind it.

        Raises:
            DataError: the template fails.
        """
        import jinja2

        try:
            return self._template.render(**values).rstrip("\n")
        except jinja2.TemplateError as error:
            raise DataError(f"{self.path}: the template fails: {error}") from None
