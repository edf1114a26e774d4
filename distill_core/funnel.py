"""Where records went: what came into each step, what went out, and why the rest did not. Standard library only.

As plain data a funnel is ``[{"step": str, "in": int, "out": int, "reasons": {kind: count}}]``, in the order of the
steps, with ``made`` where a step makes several records of one and ``examples`` where something was dropped. Every step
adds up: ``in + made == out + sum(reasons)``. The kind of a reason is what stands before its first ``": "``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

EXAMPLES = 3
"""Dropped records that are kept as examples, per kind of reason."""

MOST_KINDS = 100
"""Kinds of reasons that are told apart in a step; further ones count as :data:`OTHER`."""

LONGEST_KIND = 80
LONGEST_DETAIL = 200
LONGEST_TEXT = 240
OTHER = "other reasons"


class FunnelStep:
    """One step: a filter, a transform, the cut into sequences.

    >>> step = FunnelStep("length")
    >>> step.keep(); step.drop("too short: 2 words", {"text": "Oh no", "document": "a"})
    >>> step.plain()["reasons"], step.plain()["examples"]["too short"][0]["detail"]
    ({'too short': 1}, '2 words')
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.entered = self.left = self.made = 0
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, list[dict[str, str]]] = {}

    def keep(self, count: int = 1) -> None:
        """A record that stays; ``count``: so many records were made of it."""
        self.entered += 1
        self.left += count
        self.made += count - 1

    def drop(self, reason: str, record: Mapping[str, Any] | None = None, *, private: bool = False) -> None:
        """A record that does not stay.

        Args:
            reason: ``kind: detail``.
            record: kept as an example, if there are few of its kind yet; None: no example.
            private: the example does not show the record's text.
        """
        self.entered += 1
        kind, _, detail = reason.partition(": ")
        kind = _encodable(kind[:LONGEST_KIND])
        if kind not in self.reasons and len(self.reasons) >= MOST_KINDS:
            kind, detail = OTHER, reason
        self.reasons[kind] += 1
        if record is None or len(self.examples.setdefault(kind, [])) >= EXAMPLES:
            return
        example = {"document": str(record.get("document", ""))[:LONGEST_DETAIL], "detail": detail[:LONGEST_DETAIL]}
        if not private:
            example["text"] = plain_text(record)[:LONGEST_TEXT]
        self.examples[kind].append({key: _encodable(value) for key, value in example.items()})

    def skip(self, kind: str, count: int) -> None:
        """Records that were not looked at."""
        self.entered += count
        self.reasons[kind] += count

    @property
    def dropped(self) -> int:
        return self.reasons.total()

    def plain(self, *, examples: bool = True) -> dict[str, Any]:
        """The step as plain data."""
        content: dict[str, Any] = {"step": self.name, "in": self.entered, "out": self.left}
        if self.made > 0:
            content["made"] = self.made
        content["reasons"] = dict(self.reasons.most_common())
        if examples and self.examples:
            content["examples"] = self.examples
        return content


class Funnel:
    """Steps in order, each with a name of its own.

    >>> funnel = Funnel()
    >>> funnel.step("length").name, funnel.step("length").name
    ('length', 'length-2')
    """

    def __init__(self) -> None:
        self.steps: list[FunnelStep] = []

    def step(self, name: str) -> FunnelStep:
        """A new last step; a name that is taken gets a number."""
        taken = {step.name for step in self.steps}
        number, own = len(self.steps) + 1, name
        while own in taken:
            own, number = f"{name}-{number}", number + 1
        self.steps.append(FunnelStep(own))
        return self.steps[-1]

    def settle(self, kind: str) -> None:
        """After an early end: what a step let through and the next one never looked at is counted there, as ``kind``.

        >>> funnel = Funnel()
        >>> first, last = funnel.step("length"), funnel.step("sequences")
        >>> first.keep(); first.keep(); last.keep()
        >>> funnel.settle("not needed"); funnel.plain()[1]
        {'step': 'sequences', 'in': 2, 'out': 1, 'reasons': {'not needed': 1}}
        """
        for before, after in pairwise(self.steps):
            if before.left > after.entered:
                after.skip(kind, before.left - after.entered)

    def plain(self, *, examples: bool = True) -> list[dict[str, Any]]:
        """The funnel as plain data."""
        return [step.plain(examples=examples) for step in self.steps]


def _encodable(text: str) -> str:
    """With a question mark for each lone surrogate: it goes into a file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def plain_text(record: Mapping[str, Any]) -> str:
    """What a record says: its text, or its prompt and completion, parts or messages, a line each.

    >>> plain_text({"prompt": "Say yes.", "completion": "yes"})
    'Say yes.\\nyes'
    """
    return "\n".join(part for part, _ in text_parts(record))


def text_parts(record: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """The texts of a record in order, each with whether it answers what came before; what is no string is left out.

    Of ``messages`` the last one answers if it is the assistant's; of ``parts`` those that are predicted; a plain
    ``text`` does too, after nothing.
    """
    found: list[tuple[Any, bool]] = []
    messages, parts = record.get("messages"), record.get("parts")
    if isinstance(messages, list):
        turns = [turn for turn in messages if isinstance(turn, Mapping)]
        last = len(turns) - 1
        found = [
            (turn.get("content"), index == last and turn.get("role") == "assistant") for index, turn in enumerate(turns)
        ]
    elif isinstance(parts, list):
        found = [(one.get("text"), one.get("predict", True) is True) for one in parts if isinstance(one, Mapping)]
    elif "completion" in record or "prompt" in record:
        found = [(record.get("prompt"), False), (record.get("completion"), True)]
    elif "text" in record:
        found = [(record["text"], True)]
    elif "question" in record:
        found = [(record["question"], False), (record.get("rationale"), True), (record.get("answer"), True)]
    return [(text, answers) for text, answers in found if isinstance(text, str)]


def funnel_sentence(funnel: Iterable[Mapping[str, Any]]) -> str:
    """What each step of a plain funnel dropped, in a line.

    >>> funnel_sentence([{"step": "length", "in": 3, "out": 2, "reasons": {"too short": 1}}])
    'length dropped 1 of 3 (too short: 1)'
    """
    parts = []
    for step in funnel:
        reasons = ", ".join(f"{kind}: {count}" for kind, count in step["reasons"].items())
        if reasons:
            parts.append(f"{step['step']} dropped {sum(step['reasons'].values())} of {step['in']} ({reasons})")
    return ", ".join(parts)
