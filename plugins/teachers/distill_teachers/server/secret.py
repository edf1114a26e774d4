"""The key of a server: read from the environment, shown nowhere."""

from __future__ import annotations

import os

from distill_core.errors import DistillError


class ApiKey:
    """A key that prints as stars.

    >>> print(ApiKey("abc-secret"), repr(ApiKey("abc-secret")))
    *** ***
    >>> ApiKey("abc-secret").scrub("bad key abc-secret")
    'bad key ***'
    """

    def __init__(self, value: str | None) -> None:
        self._value = value

    @classmethod
    def from_environment(cls, name: str | None) -> ApiKey:
        """The key in an environment variable; no name: no key.

        Raises:
            DistillError: the variable is not set.
        """
        if name is None:
            return cls(None)
        value = os.environ.get(name, "").strip()
        if not value:
            raise DistillError(
                f"the environment variable {name} (api_key_env) is not set or empty: export the server's key under "
                "this name, or set api_key_env: null for a server that needs none"
            )
        return cls(value)

    def headers(self) -> dict[str, str]:
        """The header that carries the key."""
        return {} if self._value is None else {"Authorization": f"Bearer {self._value}"}

    def scrub(self, text: str) -> str:
        """The text without the key, should somebody have echoed it."""
        return text if self._value is None else text.replace(self._value, "***")

    def __str__(self) -> str:
        return "***"

    __repr__ = __str__
