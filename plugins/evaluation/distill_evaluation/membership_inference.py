"""Whether what a model was trained on can be told from what it was not, by its likelihoods alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distill_core.engine.resampling import jackknife_sums
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_evaluation.held_out import some_batches
from distill_evaluation.integrity_options import MembershipInferenceOptions
from distill_evaluation.texts import training_sequences
from distill_evaluation.token_scores import Floats, batches_of, token_scores

ATTACKS = {"loss": "loss", "min_k": "Min-K%"}


class MembershipInference:
    """Evaluator ``membership-inference``: members are training sequences, non-members the held-out ones.

    Two attacks score a sequence of T predicted tokens, the higher the likelier a member:

    - ``loss``: the mean log-probability (Yeom et al., arXiv 1709.01604).
    - ``min_k``: the mean of its ``min_k T`` lowest log-probabilities, at least one (Min-K% Prob, Shi et al., arXiv
      2310.16789, equation 1).

    For each: ``membership_auc_<attack>``, the chance that a member scores higher than a non-member, ties counting
    half; ``membership_tpr_<attack>``, the share of members above a threshold that at most ``false_positives`` of the
    non-members reach (Carlini et al., arXiv 2112.03570). 0.5 and ``false_positives`` are what guessing gives.

    The error of an AUC is the jackknife's over documents; that of the true positive rate takes the threshold as given.
    Where held-out texts differ from the training texts in kind (later years, another domain), that is told apart too:
    the teacher, which was not trained on either here, shows how much of it; compare with it.
    """

    aspect = "integrity"

    def __init__(self, options: MembershipInferenceOptions | None = None) -> None:
        self.options = options or MembershipInferenceOptions()

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        options = self.options
        training = training_sequences(context, "membership-inference")
        order = np.random.default_rng(context.seed).permutation(len(training))[: options.sequences]
        chosen = [training[int(index)] for index in sorted(order)]
        members = token_scores(context, batches_of(chosen, options.batch_sequences))
        others = token_scores(context, some_batches(context, options.sequences))
        members, others = ([(d, v) for d, v in scores if len(v)] for scores in (members, others))
        if not members or not others:
            raise SignalError("membership-inference needs training and held-out sequences with a token to predict")
        found = []
        for attack, label in ATTACKS.items():
            share = 1.0 if attack == "loss" else options.min_k
            inside, outside = ([(d, lowest_mean(v, share)) for d, v in scores] for scores in (members, others))
            found += _measurements(attack, label, inside, outside, options.false_positives)
        return found


def lowest_mean(logp_T: Floats, share: float) -> float:
    """Mean of the lowest ``share`` of the log-probabilities, at least one of them.

    >>> lowest_mean(np.array([-1.0, -4.0, -2.0, -3.0]), 0.5)
    -3.5
    """
    count = max(1, int(len(logp_T) * share))
    return float(np.sort(logp_T)[:count].mean())


def _measurements(
    attack: str,
    label: str,
    inside: Sequence[tuple[str, float]],
    outside: Sequence[tuple[str, float]],
    false_positives: float,
) -> list[Measurement]:
    scores = [np.array([value for _, value in side]) for side in (inside, outside)]
    value, left_out = auc_by_document(inside, outside)
    threshold = threshold_at(scores[1], false_positives)
    hits: dict[str, tuple[float, float]] = {}
    for document, score in inside:
        total, count = hits.get(document, (0.0, 0.0))
        hits[document] = (total + (score > threshold), count + 1)
    numbers = {"members": len(inside), "non_members": len(outside)}
    detail = {**numbers, "false_positive_rate": float((scores[1] > threshold).mean()), "asked_for": false_positives}
    return [
        Measurement(
            f"membership_auc_{attack}", value, "", len(inside) + len(outside), False,
            jackknife_sums(value, left_out), numbers, label=f"Membership told by {label}, AUC",
        ),
        Measurement(
            f"membership_tpr_{attack}", float((scores[0] > threshold).mean()), "fraction", len(inside), False,
            hits, detail, label=f"Members found by {label} at {false_positives:.0%} false positives",
        ),
    ]  # fmt: skip


def threshold_at(others: Floats, false_positives: float) -> float:
    """The lowest of the scores such that at most this share of them lies above it.

    >>> threshold_at(np.array([1.0, 2.0, 3.0, 4.0]), 0.25)
    3.0
    """
    allowed = int(false_positives * len(others) + 1e-9)
    ordered = np.sort(others)[::-1]
    return float(ordered[min(allowed, len(ordered) - 1)])


def auc_by_document(
    inside: Sequence[tuple[str, float]], outside: Sequence[tuple[str, float]]
) -> tuple[float, dict[str, float]]:
    """The area under the ROC curve (Mann-Whitney, ties half), and without each document of either side.

    >>> auc_by_document([("a", 2.0), ("b", 1.0)], [("c", 0.0), ("d", 1.0)])[0]
    0.875
    """
    ours, theirs = (np.array([value for _, value in side]) for side in (inside, outside))
    placed = _wins(ours, theirs)  # of each member: non-members below it
    lost = len(ours) - _wins(theirs, ours)  # of each non-member: members above it
    total = float(placed.sum())
    value = total / (len(ours) * len(theirs))
    names = [np.array([document for document, _ in side]) for side in (inside, outside)]
    left_out = {}
    for document in dict.fromkeys([*names[0].tolist(), *names[1].tolist()]):
        mine, other = names[0] == document, names[1] == document
        kept = (len(ours) - mine.sum()) * (len(theirs) - other.sum())
        both = float(_wins(ours[mine], theirs[other]).sum()) if mine.any() and other.any() else 0.0
        rest = total - float(placed[mine].sum()) - float(lost[other].sum()) + both
        left_out[document] = rest / kept if kept else value
    return value, left_out


def _wins(ours: Floats, theirs: Floats) -> npt.NDArray[np.float64]:
    """For each of ours: how many of theirs lie below, ties counting half."""
    ordered = np.sort(theirs)
    below, upto = (np.searchsorted(ordered, ours, side=side) for side in ("left", "right"))  # type: ignore[call-overload]
    wins: npt.NDArray[np.float64] = (below + upto) / 2
    return wins
