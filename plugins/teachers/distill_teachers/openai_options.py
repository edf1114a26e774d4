"""Options of the ``openai`` teacher. No torch, no HTTP client."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from distill_core.options import Options
from distill_core.plugin import Provides

ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

OWN_FIELDS = frozenset(
    {"model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed"}
    | {"logprobs", "top_logprobs", "echo", "stream", "n"}
)
"""Fields of a request that the teacher fills in itself."""


class OpenAIOptions(Options):
    """Options of ``openai``: a server that speaks OpenAI's protocol, anywhere."""

    model: str = Field(description="the server's name for the model")
    base_url: str = Field(default="https://api.openai.com/v1", description="address up to and with /v1")
    endpoint: Literal["chat", "completions"] = Field(
        default="chat", description="where text is asked for; the targets of `signals` always come from completions"
    )
    api_key_env: str | None = Field(
        default="OPENAI_API_KEY",
        description="name of the environment variable with the key (never the key itself); null: the server needs none",
    )
    tokenizer: str | None = Field(
        default=None,
        description="directory or hub id of the model's tokenizer; with it the teacher gives targets and token ids",
    )
    prompt_form: Literal["text", "ids"] = Field(
        default="text", description="how sequences are sent for targets; ids where the server takes lists of token ids"
    )
    top_logprobs: PositiveInt = Field(default=20, description="most log-probabilities the server lists per token")
    extra: dict[str, Any] = Field(default_factory=dict, description="further fields of every request, as they are")
    send_seed: bool = Field(default=True, description="send each request's seed; false for servers that refuse it")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="the chat endpoint's name for the limit of an answer"
    )
    concurrency: PositiveInt = Field(default=8, description="requests under way at a time, at most")
    timeout_s: PositiveFloat = Field(default=120.0, description="seconds until an answer must be there whole")
    attempts: PositiveInt = Field(default=8, description="how often a request is sent before the run gives up")
    backoff_s: PositiveFloat = Field(default=0.5, description="first wait after a failure; doubles, with random jitter")
    max_wait_s: PositiveFloat = Field(
        default=120.0, description="longest wait between attempts; a server that asks for more ends the run"
    )
    prompt_price: NonNegativeFloat = Field(default=0.0, description="price of a million prompt tokens")
    completion_price: NonNegativeFloat = Field(default=0.0, description="price of a million written tokens")
    max_cost: PositiveFloat | None = Field(
        default=None, description="budget in the currency of the prices, for all runs that share the cache"
    )
    max_tokens: PositiveInt | None = Field(
        default=None, description="budget in tokens, read and written, for all runs that share the cache"
    )
    template_tokens: NonNegativeInt = Field(
        default=256, description="tokens that a server's chat template may add to a prompt, for the budget"
    )
    cache_dir: str | None = Field(
        default=None, description="where answers and the account are kept; default: DISTILL_CACHE or ~/.cache"
    )

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected an address such as https://api.openai.com/v1 or http://127.0.0.1:8000/v1")
        return value.rstrip("/")

    @field_validator("extra")
    @classmethod
    def _extra_only(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(OWN_FIELDS & set(value))
        if taken:
            raise ValueError(f"{taken} are filled in by the teacher itself; extra is for other fields of the server")
        return value

    def problems(self) -> list[str]:
        """A key that is missing or in the wrong place, prices that a budget needs, packages that are not installed."""
        found = []
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query:
            found.append(
                "base_url: carries credentials or a query (not shown); the key comes from the environment variable "
                "named by api_key_env and from nowhere else"
            )
        found += self._key_problems()
        if self.max_cost is not None and not self.prompt_price and not self.completion_price:
            found.append("max_cost: nothing is counted without prompt_price and completion_price: give the prices")
        missing = [name for name in ("httpx", "tenacity") if importlib.util.find_spec(name) is None]
        if missing:
            found.append(f"the openai teacher needs {' and '.join(missing)}: pip install {' '.join(missing)}")
        return found

    def _key_problems(self) -> list[str]:
        name = self.api_key_env
        if name is None:
            return []
        if ENVIRONMENT_NAME.fullmatch(name) is None:
            return [
                "api_key_env: expected the name of an environment variable, e.g. OPENAI_API_KEY; what was given (not "
                "shown, it may be a key) is no such name. Export the key and give the variable's name"
            ]
        if not os.environ.get(name):
            return [
                f"api_key_env: the environment variable {name} is not set or empty: export it, or set "
                "api_key_env: null for a server that needs no key"
            ]
        return []

    def provides(self, declared: Provides) -> Provides:
        """Text always; targets where a tokenizer says which ids the server's token texts stand for."""
        signals = {"text"} if self.tokenizer is None else {"text", "targets"}
        return Provides(frozenset(signals), ("exact",), (1.0,))

    @property
    def address(self) -> str:
        """``base_url`` without credentials or query, for messages and identities.

        >>> OpenAIOptions(model="m", base_url="http://me:secret@host:80/v1?key=secret").address
        'http://host:80/v1'
        """
        parts = urlsplit(self.base_url)
        port = "" if parts.port is None else f":{parts.port}"
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"
