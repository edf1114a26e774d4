"""The ``el2n`` selector: how wrong a model is early in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from distill_core.engine.data import IGNORE, TokenSequence
from distill_core.engine.features import ModelState
from distill_core.errors import DataError
from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.options import El2nOptions

NOTHING = "nothing to predict"
Score = Callable[[Sequence[TokenSequence], ModelState | None], npt.NDArray[np.float32]]


class El2n:
    """EL2N (2107.07075): ``E |p - onehot(y)|_2``, over networks; the hardest (or easiest) first.

    The paper scores classifiers, whose sequences have one prediction; of a language model's it is the mean over the
    predicted tokens.
    """

    def __init__(self, options: El2nOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        scores, refused = over_networks(context, self.options, context.features.error_norms)
        return ranked(scores, refused, self.options.keep, "mean distance of probabilities to the one-hot label")


def over_networks(
    context: SelectionContext, options: El2nOptions, score: Score
) -> tuple[npt.NDArray[np.float64], dict[int, str]]:
    """The mean score over networks, NaN for the sequences refused: those without a prediction.

    Raises:
        DataError: several networks that would all be the initial student, or no sequence with a prediction.
    """
    if options.networks > 1 and options.warm_up is None:
        raise DataError(
            f"networks: {options.networks} without warm_up would all be the same initial student: add warm_up, or "
            "ask one"
        )
    refused = {i: NOTHING for i, sequence in enumerate(context.pool) if not predicts(sequence)}
    if len(refused) == len(context.pool):
        raise DataError("no sequence of the pool has anything to predict: scores by a model's errors are all 0")
    found = [score(context.pool, state) for state in _states(context, options)]
    scores = np.mean(np.asarray(found, dtype=np.float64), axis=0)
    scores[list(refused)] = np.nan
    return scores, refused


def predicts(sequence: TokenSequence) -> bool:
    """Whether a sequence has a token (but the first) or a class to predict."""
    return bool((sequence.labels[1 if sequence.next_token else 0 :] != IGNORE).any())


def ranked(scores: npt.NDArray[np.float64], refused: dict[int, str], keep: str, meaning: str) -> Ranking:
    """The ranking by scores, without those refused; ties go to the first."""
    order = np.argsort(-scores if keep == "hardest" else scores, kind="stable")
    return Ranking(order[~np.isin(order, list(refused))], scores, meaning, refused)


def _states(context: SelectionContext, options: El2nOptions) -> list[ModelState | None]:
    if options.warm_up is None:
        return [None]
    from distill_synthesis.selectors.warm_up import warm_up

    networks = range(options.networks)
    return [warm_up(context, options.warm_up, whole=True, network=n)[-1].state(context) for n in networks]
