"""What a store says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distill_core.errors import StoreError
from distill_core.store.keys import MAX_VOCABULARY

SCHEMA_VERSION = 2
"""Version of the format; a reader refuses any other. 1 had ids of fixed width and one Rice code for all gaps."""

STEP_NAT = 1.0 / 128.0
"""Grid of quantised log-odds, nat, at the lowest captured temperature."""

ERROR_NAT = STEP_NAT
"""Bound of the error of every log p_i, of the log tail and of log(1 - p_max), nat, at every captured temperature."""

ENTROPY_STEP_NAT = 1.0 / 1024.0
"""Grid of the stored entropy, nat; the error is at most half of it."""

LABEL_STEP_NAT = 1.0 / 128.0
"""Grid of the stored label log-probability, nat; the error is at most half of it."""

METHODS = ("topk", "threshold", "multinomial")


@dataclass(frozen=True)
class StoreMeta:
    """Everything a reader must know before using a row; equal meta means stores can be merged.

    Args:
        vocabulary_size: effective vocabulary, ``len(tokenizer)``, at most 2^32.
        tokenizer_fingerprint: from ``vocabulary_info(tokenizer).fingerprint``.
        teacher: the teacher's identity.
        revision: the teacher's revision.
        method: ``topk`` (exact), ``threshold`` or ``multinomial`` (sampled).
        k: support size (multinomial: draws), at most ``vocabulary_size``.
        temperatures: at which rows can be read, dimensionless; exactly one for sampled methods.
        seed: seed of the sample.
        draws: independent samples per row (sampled methods).
        dtype: in which the teacher computed.
        layout: attention layout, part of the key.

    Raises:
        ValueError: a field is out of range, naming it.

    >>> meta = StoreMeta(vocabulary_size=97, tokenizer_fingerprint="f", teacher="t", method="topk", k=8)
    >>> meta.kind, meta.error_nat
    ('exact', 0.0078125)
    """

    vocabulary_size: int
    tokenizer_fingerprint: str
    teacher: str
    method: Literal["topk", "threshold", "multinomial"]
    k: int
    temperatures: tuple[float, ...] = (1.0,)
    seed: int = 0
    draws: int = 1
    dtype: str = "float32"
    revision: str = ""
    layout: str = "plain"

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperatures", tuple(float(value) for value in self.temperatures))
        problems = []
        if not 1 <= self.vocabulary_size <= MAX_VOCABULARY:
            problems.append(f"vocabulary_size is {self.vocabulary_size}; expected 1 to 2^32")
        if self.method not in METHODS:
            problems.append(f"method is {self.method!r}; expected one of {list(METHODS)}")
        if self.k < 0 or (self.method != "multinomial" and self.k > self.vocabulary_size):
            problems.append(f"k is {self.k}; expected 0 to the vocabulary size {self.vocabulary_size}")
        if not self.temperatures or not all(0.0 < value < float("inf") for value in self.temperatures):
            problems.append(f"temperatures is {self.temperatures}; expected positive numbers")
        if len(set(self.temperatures)) != len(self.temperatures):
            problems.append(f"temperatures {self.temperatures} names one twice")
        if self.method != "topk" and len(self.temperatures) != 1:
            problems.append(f"method {self.method!r} draws at one temperature; received {self.temperatures}")
        if self.draws < 1 or (self.method == "topk" and self.draws != 1):
            problems.append(f"draws is {self.draws} with method {self.method!r}; expected 1, or more for a sample")
        if self.method == "multinomial" and self.k < 1:
            problems.append("k is 0; a multinomial sample has at least one draw")
        if problems:
            raise ValueError("StoreMeta: " + "; ".join(problems))

    @property
    def kind(self) -> Literal["exact", "sampled"]:
        """``exact`` or ``sampled``, as in ``RowTarget``."""
        return "exact" if self.method == "topk" else "sampled"

    @property
    def error_nat(self) -> float:
        """Bound of the quantisation error, nat; multinomial counts are stored exactly."""
        return 0.0 if self.method == "multinomial" else ERROR_NAT

    def to_json(self) -> dict[str, Any]:
        """As stored: the fields, plus what follows from the format."""
        return {
            **asdict(self),
            "temperatures": list(self.temperatures),
            "schema_version": SCHEMA_VERSION,
            "error_nat": self.error_nat,
            "entropy_error_nat": ENTROPY_STEP_NAT / 2,
            "label_error_nat": LABEL_STEP_NAT / 2,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, source: str) -> StoreMeta:
        """Read what :meth:`to_json` wrote.

        Raises:
            StoreError: another schema version, or fields that are missing or wrong.
        """
        version = value.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{source}: the store has schema version {version!r}, this program reads {SCHEMA_VERSION}: "
                "use the version of distill-core that wrote it, or capture again"
            )
        names = cls.__dataclass_fields__
        try:
            return cls(**{name: value[name] for name in names})
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{source}: the description of the store cannot be used ({error})") from error

    def differences(self, other: StoreMeta) -> list[str]:
        """Sentences naming each field that differs (empty: equal)."""
        mine, theirs = self.to_json(), other.to_json()
        return [f"{name}: {mine[name]!r} against {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]
