"""Secrets planted in the training data: does a model rank the planted one above others of its shape?"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_core.errors import DataError
from distill_core.interfaces import EvaluationContext, Flag, Measurement
from distill_evaluation.integrity_options import CanariesOptions, PlantCanariesOptions
from distill_evaluation.token_scores import batches_of, encoded, token_scores, total_nats

WANTED = "`canary`, a text with one {}, and `secret`"


@dataclass(frozen=True)
class Canary:
    """A text with a place for a secret, and the secret that is planted."""

    name: str
    text: str
    secret: str

    def with_secret(self, secret: str) -> str:
        return self.text.replace("{}", secret)


class Canaries:
    """Evaluator ``canaries``: exposure of planted secrets (Carlini et al., arXiv 1802.08232).

    - ``canary_exposure``, bit: ``log2 |R| - log2 rank`` of the planted secret's text by its negative log-likelihood
      among ``|R|`` texts: the planted one and ``alternatives`` drawn ones of the same shape (digits for digits, letters
      for letters); ties count against memorisation. Mean over canaries; 1.44 bit (1 / ln 2) is what a model gives on
      average that has not seen it, ``log2 |R|`` the most that can be measured.

    A canary whose rank is that of one in ``significance`` by chance (Bonferroni over canaries) raises the flag
    ``memorised-canary``. The transform ``plant-canaries`` puts the same file into the training data.
    """

    aspect = "integrity"

    def __init__(self, options: CanariesOptions) -> None:
        self.options = options

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        canaries = read_canaries(self.options.path)
        ranks = {canary.name: self._rank(context, canary) for canary in canaries}
        size = self.options.alternatives + 1
        exposure = {name: math.log2(size) - math.log2(rank) for name, rank in ranks.items()}
        limit = self.options.significance / len(canaries)
        found = [name for name, rank in ranks.items() if rank / size <= limit]
        reason = (
            f"{len(found)} of {len(canaries)} planted secrets are memorised by {context.name} (e.g. {found[:1]}): "
            "others of its training texts may be too; train on them less often, or take out what must not be repeated"
        )
        evidence = {"canaries": found, "ranks": {name: ranks[name] for name in found}, "among": size}
        flags = (Flag("memorised-canary", "error", reason, evidence),) if found else ()
        return [
            Measurement(
                "canary_exposure",
                sum(exposure.values()) / len(exposure),
                "bit",
                len(canaries),
                False,
                {name: (value, 1.0) for name, value in exposure.items()},
                {"ranks": ranks, "among": size, "most": math.log2(size)},
                label="Exposure of canaries",
                flags=flags,
            )
        ]

    def _rank(self, context: EvaluationContext, canary: Canary) -> int:
        draw = random.Random(f"{self.options.seed} {canary.name}")
        others: set[str] = set()
        for _ in range(100 * self.options.alternatives):
            if len(others) == self.options.alternatives:
                break
            other = same_shape(canary.secret, draw)
            if other != canary.secret:
                others.add(other)
        if len(others) < self.options.alternatives:
            raise DataError(
                f"canaries: the secret {canary.secret!r} of {canary.name} has fewer than {self.options.alternatives} "
                "alternatives of its shape: take a longer secret or lower `alternatives`"
            )
        texts = [canary.with_secret(secret) for secret in [canary.secret, *sorted(others)]]
        sequences = encoded(context, [(canary.name, text) for text in texts], "canaries")
        nats = total_nats(token_scores(context, batches_of(sequences, self.options.batch_sequences)))
        return 1 + int((nats[1:] <= nats[0]).sum())


class PlantCanaries:
    """Transform ``plant-canaries``: puts every canary of a file before the first record, ``repeats`` times each."""

    def __init__(self, options: PlantCanariesOptions) -> None:
        self.options = options
        self._planted = False

    def transform(self, record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if not self._planted:
            self._planted = True
            for canary in read_canaries(self.options.path):
                for _ in range(self.options.repeats):
                    yield {"text": canary.with_secret(canary.secret), "document": canary.name}
        yield record


def same_shape(secret: str, draw: random.Random) -> str:
    """Another secret: a digit for each digit, a small letter for each small one, a capital for each capital.

    >>> same_shape("AB-12", random.Random(0))[2]
    '-'
    """
    digits, small = "0123456789", "abcdefghijklmnopqrstuvwxyz"
    kinds = ((str.isdigit, digits), (str.islower, small), (str.isupper, small.upper()))
    return "".join(next((draw.choice(pool) for is_kind, pool in kinds if is_kind(c)), c) for c in secret)


def read_canaries(path: str) -> list[Canary]:
    """The canaries of a JSON Lines file.

    Raises:
        DataError: no such file, a line without ``canary`` (with one {}) and ``secret``, or none at all.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"canaries: {file} does not exist")
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: no JSON: {error}") from error
        text, secret = (value.get(name) if isinstance(value, dict) else None for name in ("canary", "secret"))
        if not isinstance(text, str) or not isinstance(secret, str) or text.count("{}") != 1 or not secret:
            raise DataError(f"{file}, line {number}: needs {WANTED}, got {line[:80]}")
        found.append(Canary(str(value.get("name", f"canary-{len(found) + 1}")), text, secret))
    if not found:
        raise DataError(f"canaries: {file} holds none")
    return found
