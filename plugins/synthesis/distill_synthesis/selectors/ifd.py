"""The ``ifd`` selector: how much a prompt helps with its answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distill_core.engine.data import IGNORE, TokenSequence
from distill_core.errors import DataError
from distill_core.interfaces import Ranking, SelectionContext
from distill_core.store import sequence_key
from distill_synthesis.selectors.options import IfdOptions

NO_PROMPT, TOO_SHORT, NO_HELP = "no prompt", "an answer of one token", "the prompt does not help"


class Ifd:
    """Instruction-following difficulty (2308.12032): ``loss(answer | prompt) / loss(answer alone)``, greatest first.

    Both are mean losses of the initial student on the same tokens: the first token of the answer, which nothing stands
    before in the answer alone, counts in neither. At ``drop_above`` or more the prompt does not help: it is refused.
    """

    def __init__(self, options: IfdOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        if any(not sequence.next_token for sequence in context.pool):
            raise DataError(
                "ifd compares answers with and without their prompt, but the sequences have classes: no `task:`"
            )
        refused: dict[int, str] = {}
        able: list[int] = []
        for index, sequence in enumerate(context.pool):
            predicted = np.flatnonzero(sequence.labels != IGNORE)
            if not len(predicted) or predicted[0] == 0:
                refused[index] = NO_PROMPT
            elif len(predicted) == 1:
                refused[index] = TOO_SHORT
            else:
                able.append(index)
        if not able:
            raise DataError(
                "ifd found no sequence with a prompt and an answer of at least two tokens: records need `prompt` and "
                "`completion`, or `messages`"
            )
        given = context.features.losses([with_prompt(context.pool[i]) for i in able])
        alone = context.features.losses([answer_alone(context.pool[i]) for i in able])
        scores = np.full(len(context.pool), np.nan)
        scores[able] = np.divide(given, alone, out=np.full(len(able), np.inf), where=alone > 0, dtype=np.float64)
        for index in able:
            if scores[index] >= self.options.drop_above:
                refused[index] = NO_HELP
        order = np.array([i for i in able if i not in refused], dtype=np.int64)
        order = order[np.argsort(-scores[order], kind="stable")]
        return Ranking(order, scores, "loss of the answer after its prompt over its loss alone", refused)


def with_prompt(sequence: TokenSequence) -> TokenSequence:
    """The sequence with the answer's first token no longer predicted."""
    labels = sequence.labels.copy()
    labels[np.flatnonzero(labels != IGNORE)[0]] = IGNORE
    return replace(sequence, labels=labels)


def answer_alone(sequence: TokenSequence) -> TokenSequence:
    """The sequence from the answer's first token on; that one is not predicted."""
    start = int(np.flatnonzero(sequence.labels != IGNORE)[0])
    weights = None if sequence.weights is None else sequence.weights[start:]
    ids = sequence.input_ids[start:]
    return with_prompt(
        replace(sequence, input_ids=ids, labels=sequence.labels[start:], weights=weights, key=sequence_key(ids))
    )
