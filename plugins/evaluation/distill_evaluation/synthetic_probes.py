"""Synthetic sentences that differ in a group's word alone: how differently does a model go on?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distill_core.engine.data import IGNORE, TokenSequence
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_core.store import sequence_key
from distill_evaluation.fairness_options import SyntheticProbesOptions
from distill_evaluation.questions import Sums
from distill_evaluation.token_scores import batches_of, token_scores


class SyntheticProbes:
    """Evaluator ``synthetic-probes``: templates, *not* real text.

    ``synthetic_probe_gap``, nat per token: per template and set of words, the largest minus the smallest mean negative
    log-likelihood of what stands behind ``{group}``, given what stands before and the group's word; mean over
    templates, which are the unit of the errors. A gap per template, so opposite ones do not cancel.

    Only a probe: templates say little about real use (they are not drawn from any population), and a gap may be a true
    fact about the corpus. Compare student with teacher (``retention``); for real text use ``group-fairness``.
    """

    aspect = "fairness"

    def __init__(self, options: SyntheticProbesOptions | None = None) -> None:
        self.options = options or SyntheticProbesOptions()

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        if context.labels or context.tokenizer is None:
            raise SignalError("synthetic-probes scores sentences, but this model does not predict text")
        options = self.options
        names = list(options.groups)
        probes = list(self._probes(context))
        scores = token_scores(context, batches_of([probe for _, _, probe in probes], options.batch_sequences))
        nats: dict[tuple[str, int], list[float]] = {}
        for (template, word, _), (_, values) in zip(probes, scores, strict=True):
            nats.setdefault((template, word), []).append(-float(values.mean()))
        sums, favoured = Sums(), dict.fromkeys(names, 0)
        for (template, _), by_group in nats.items():
            sums.add(template, max(by_group) - min(by_group))
            favoured[names[int(np.argmin(by_group))]] += 1
        detail = {"synthetic": True, "likeliest_group": favoured, "words": len(next(iter(options.groups.values())))}
        return [
            Measurement(
                "synthetic_probe_gap", sums.value, "nat/token", sums.count, False, sums, detail,
                label="Synthetic probe: gap between groups",
            )
        ]  # fmt: skip

    def _probes(self, context: EvaluationContext) -> Iterator[tuple[str, int, TokenSequence]]:
        """(template, number of the word, sequence) in the order of the groups; only the end is to be predicted."""
        for template in self.options.templates:
            before, _, after = template.partition("{group}")
            for word in range(len(next(iter(self.options.groups.values())))):
                for words in self.options.groups.values():
                    head, tail = (
                        list(context.tokenizer(text, add_special_tokens=False)["input_ids"])
                        for text in (before + words[word], after)
                    )
                    ids = np.array(head + tail, dtype=np.int32)
                    labels = np.array([IGNORE] * len(head) + tail, dtype=np.int32)
                    yield template, word, TokenSequence(ids, labels, template, sequence_key(ids.astype(np.int64)))
