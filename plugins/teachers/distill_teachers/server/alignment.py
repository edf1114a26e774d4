"""Which distribution a server lists beside which token of an echoed prompt; found out, never assumed.

OpenAI's own protocol lists beside a token the distribution that predicted it. Others list the one after it (seen:
llama-cpp-python on prompts without a BOS), or leave the BOS out of the list. A model is causal: if token f of a prompt
is changed, the first distribution that changes is the one that predicts token f + 1. Where it stands in the list is
the alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distill_core.errors import SignalError
from distill_teachers.server.reading import Position
from distill_teachers.server.token_texts import TokenTexts

SAME_NAT = 0.03
"""Two answers about one distribution differ by less (batching, caches of the server)."""

CHANGED_NAT = 0.2
"""A distribution after a changed token differs by more."""

SENTENCES = (
    ("The capital of {} is a large city with many people in it.", ("France", "Japan", "Germany", "China")),
    ("In the {} the men went down to the sea and came back to the house.", ("morning", "evening", "year", "night")),
    ("a b c {} e f g h i j k l", ("d", "x", "m", "q")),
    ("1 2 3 {} 5 6 7 8 9 10 11 12", ("4", "7", "1", "9")),
)


@dataclass(frozen=True)
class Alignment:
    """How to read echoed lists.

    Args:
        shift: beside token m stands the distribution that predicts token m + ``shift``: 0 (OpenAI) or 1.
        omits_bos: BOS tokens are left out of the list.
    """

    shift: int
    omits_bos: bool


@dataclass(frozen=True)
class ProbePair:
    """Two prompts, as ids, that differ at one position."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    changed: int


Echo = Callable[[Sequence[int]], tuple[Position, ...]]
"""Asks for the echo of a prompt of these ids."""

After = Callable[[Sequence[int]], tuple[Position, ...]]
"""Asks for the tokens written after a prompt of these ids."""


def probe_pairs(tokenizer: Any, *, bos: int | None, wanted: int = 2) -> list[ProbePair]:
    """Pairs of sentences of which one token differs, with tokens in front of it and behind.

    Args:
        tokenizer: the model's.
        bos: put in front; None: not.
        wanted: how many pairs.

    Raises:
        SignalError: this tokenizer makes no such pair of any sentence.
    """
    pairs = []
    for sentence, words in SENTENCES:
        encoded = [tuple(tokenizer.encode(sentence.format(word), add_special_tokens=False)) for word in words]
        found = None
        for second in encoded[1:]:
            differ = [i for i, (a, b) in enumerate(zip(encoded[0], second, strict=False)) if a != b]
            if len(second) == len(encoded[0]) and len(differ) == 1 and 2 <= differ[0] < len(second) - 2:
                found = ProbePair(encoded[0], second, differ[0])
                break
        if found is not None:
            front = () if bos is None else (bos,)
            pairs.append(ProbePair(front + found.first, front + found.second, found.changed + len(front)))
    if not pairs:
        raise SignalError("no two probe sentences differ in one token of this tokenizer, so the alignment of the "
                          "server's log-probabilities cannot be found out")  # fmt: skip
    return pairs[:wanted]


def find_alignment(
    echo: Echo, after: After, texts: TokenTexts, *, bos: int | None, has_bos: bool, label: str
) -> Alignment:
    """Probe a server.

    Args:
        echo: lists over a prompt.
        after: lists of what is written after a prompt.
        texts: the vocabulary.
        bos: the BOS id, if there is one.
        has_bos: probe prompts that start with it.
        label: the server's name for messages.

    Raises:
        SignalError: no distributions are listed, the list does not fit the tokens, or its alignment is not clear.
    """
    shifts, omits = set(), set()
    for pair in probe_pairs(texts.tokenizer, bos=bos if has_bos else None):
        first, second = echo(pair.first), echo(pair.second)
        index, omitted = listed_indices(first, pair.first, texts, bos=bos, omits_bos=None, label=label)
        listed_indices(second, pair.second, texts, bos=bos, omits_bos=omitted, label=label)
        if sum(position.top is not None for position in first) < 2:
            raise SignalError(
                f"{label} echoes a prompt but lists no log-probabilities over it, so it cannot give targets (some "
                "servers have to be started for that: llama.cpp with --logits_all true)"
            )
        changed = _first_change(first, second, index, pair, label)
        if changed is None:
            continue
        shift = pair.changed + 1 - changed
        shifts.add(shift)
        omits.add(omitted)
        if shift in (0, 1):
            _check_what_follows(first, after(pair.first), index, shift, label)
    if not shifts:
        raise SignalError(
            f"{label} lists nearly the same log-probabilities for prompts that differ, so it cannot be told which "
            "token they belong to: they are refused"
        )
    if len(shifts) != 1 or len(omits) != 1 or not shifts <= {0, 1}:
        raise SignalError(
            f"{label} lists log-probabilities in an order that is not understood (shifts {sorted(shifts)}): "
            "training on them might mean training on shifted targets, so they are refused"
        )
    return Alignment(shifts.pop(), omits.pop())


def listed_indices(
    listed: Sequence[Position],
    ids: Sequence[int],
    texts: TokenTexts,
    *,
    bos: int | None,
    omits_bos: bool | None,
    label: str,
) -> tuple[list[int], bool]:
    """For each listed token, which token of the prompt it is.

    Args:
        listed: the echo; it may go on with written tokens.
        ids: the prompt as sent.
        texts: the vocabulary.
        bos: id of the BOS.
        omits_bos: whether BOS tokens are left out; None: find out.
        label: the server's name.

    Returns:
        The indices into ``ids``, and whether BOS tokens were left out.

    Raises:
        SignalError: the list is not that of these tokens: the server has another tokenizer, or reads the text
            differently.
    """
    readings = {False: list(range(len(ids)))}
    if bos is not None and bos in ids:
        readings[True] = [i for i, token in enumerate(ids) if token != bos]
    allowed = readings if omits_bos is None or bos not in ids else {omits_bos: readings[omits_bos]}
    nearest = (-1, 0)
    for omitted, index in allowed.items():
        fit = [
            texts.fits(position.token, ids[i], begins=i == 0 or ids[i - 1] in texts.special_ids)
            for position, i in zip(listed, index, strict=False)
        ]
        if all(fit) and len(listed) >= len(index):
            return index, omitted
        wrong = fit.index(False) if False in fit else len(fit)
        nearest = max(nearest, (wrong, index[min(wrong, len(index) - 1)]))
    wrong, at = nearest
    shown = repr(listed[wrong].token.text) if wrong < len(listed) else "nothing more"
    raise SignalError(
        f"{label} does not read the sequence as these {len(ids)} tokens: at token {at} it shows {shown}, expected "
        f"{sorted(texts.shown_as(ids[at]))!r}. Is `tokenizer` the model's own? A sequence cut inside a word or a "
        "character is read differently as text: send ids (prompt_form: ids) if the server takes them"
    )


def gap_nat(one: Position, other: Position) -> float:
    """Largest difference of log-probabilities that both list by the same text, in nat; infinite if they share none."""
    if one.top is None or other.top is None:
        return float("inf")
    # Two tokens may show as one text: those are left out on both sides.
    first, second = _by_text(one), _by_text(other)
    common = set(first) & set(second)
    if not common:
        return float("inf")
    return max(abs(first[text] - second[text]) for text in common)


def _by_text(position: Position) -> dict[str, float]:
    found: dict[str, float] = {}
    for shown in position.top or ():
        if shown.logprob is not None and shown.text.strip() and "\ufffd" not in shown.text:
            found[shown.text] = shown.logprob
    return found


def _first_change(
    first: Sequence[Position], second: Sequence[Position], index: Sequence[int], pair: ProbePair, label: str
) -> int | None:
    """Index of the token beside which the first changed distribution stands; None where that is not clear."""
    for place, token in enumerate(index):
        if first[place].top is None or second[place].top is None:
            continue
        gap = gap_nat(first[place], second[place])
        if gap <= SAME_NAT:
            continue
        if token < pair.changed:
            raise SignalError(
                f"{label} answers differently about the same tokens ({gap:.3f} nat apart at token {token} of a probe): "
                "its log-probabilities are no exact targets"
            )
        return token if gap > CHANGED_NAT else None
    return None


def _check_what_follows(
    echoed: Sequence[Position],
    written: Sequence[Position],
    index: Sequence[int],
    shift: int,
    label: str,
) -> None:
    """The distribution after the last token, asked for by itself, is the one in the list (where the list has it)."""
    place = len(index) - 1 if shift == 1 else len(index)
    if not written or place >= len(echoed) or echoed[place].top is None:
        return
    gap = gap_nat(echoed[place], written[0])
    if gap > SAME_NAT:
        raise SignalError(
            f"{label} lists after a prompt of {len(index)} tokens another distribution than it writes from ({gap:.3f} "
            "nat apart): its log-probabilities are refused"
        )
