"""What a synthesizer makes: a row, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

TRAINING_FORMS = ("text", "prompt", "completion", "messages", "parts")
"""Fields of a source record that are replaced; all others are kept."""


@dataclass(frozen=True)
class Check:
    """A judgement on a row.

    Args:
        name: what judged.
        passed: the verdict.
        reason: in a few words; empty where there is nothing to say.
        score: if there is one.
    """

    name: str
    passed: bool
    reason: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a row comes from.

    Args:
        synthesizer: registered name.
        teacher: identity.
        prompts: template name -> sha256 of its content, for every prompt that led to the row.
        parameters: how each text of it was written, by what it is (``instruction``, ``answer``, ``text``).
        seed: the run's; with the ids of the requests it keys every random number.
        requests: ids of the requests that were answered for it.
        parents: documents it was made of.
        checks: what the synthesizer itself judged.
        details: of the method: operation, attributes.
        filters: filters passed, in order.
    """

    synthesizer: str
    teacher: str
    prompts: Mapping[str, str]
    parameters: Mapping[str, Mapping[str, Any]]
    seed: int
    requests: tuple[str, ...]
    parents: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    filters: tuple[str, ...] = ()


@dataclass(frozen=True)
class MadeRow:
    """One row: ``text``, or ``prompt`` and ``completion``.

    Args:
        document: its id.
        provenance: where it comes from.
        text: a plain text.
        prompt: an instruction or question.
        completion: its answer.
        system: of a chat, before the prompt.
        kept: fields of the source's record that go on.
    """

    document: str
    provenance: Provenance
    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    system: str | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)


def as_record(row: MadeRow, form: str = "prompt") -> dict[str, Any]:
    """The row as a record, for the data stage.

    Args:
        row: what was made.
        form: of an instruction and its answer: ``prompt`` or ``messages``.

    >>> origin = Provenance("magpie", "teacher", {}, {}, 0, ("magpie-0",))
    >>> record = as_record(MadeRow("magpie-0", origin, prompt="Say yes.", completion="yes"))
    >>> record["prompt"], record["completion"], record["provenance"]["requests"]
    ('Say yes.', 'yes', ['magpie-0'])
    """
    record = {name: value for name, value in row.kept.items() if name not in (*TRAINING_FORMS, "provenance")}
    record["document"] = row.document
    if row.text is not None:
        record["text"] = row.text
    elif form == "messages":
        system = [] if row.system is None else [{"role": "system", "content": row.system}]
        turns = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}]
        record["messages"] = [*system, *turns]
    else:
        record["prompt"], record["completion"] = row.prompt, row.completion
    made = asdict(row.provenance)
    for name in ("requests", "parents", "checks", "filters"):
        made[name] = list(made[name])
    if row.kept.get("provenance"):
        made["source"] = row.kept["provenance"]
    record["provenance"] = made
    return record
