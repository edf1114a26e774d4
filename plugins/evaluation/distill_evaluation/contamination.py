"""How much of the held-out texts the students were trained on: shared runs of words, and near copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill_core.interfaces import EvaluationContext, Flag, Measurement
from distill_evaluation.integrity_options import ContaminationOptions
from distill_evaluation.text_vectors import vectors_of, words
from distill_evaluation.texts import held_out_texts, training_texts

SHOWN = 5
"""Documents named in a flag."""


class Contamination:
    """Evaluator ``contamination``, of the data: does the training data hold the test?

    - ``ngram_overlap``: share of the runs of ``n`` words of held-out documents that stand somewhere in the training
      texts (13 words: Brown et al., arXiv 2005.14165, appendix C). A document shorter than that is one run.
    - ``contaminated_documents``: share of held-out documents of which at least ``contaminated_share`` of the runs do;
      any raises the flag ``test-in-training``.
    - ``nearest_training_similarity``: mean over held-out documents of the largest cosine to a training document, by
      hashed words and pairs of words, or by ``encoder``; those of at least ``near_duplicate`` raise the flag
      ``near-duplicate-of-test``.

    Case and punctuation do not matter. A translation or a paraphrase is found by none but a good encoder.
    """

    aspect = "integrity"

    def __init__(self, options: ContaminationOptions | None = None) -> None:
        self.options = options or ContaminationOptions()

    def evaluate_data(self, context: EvaluationContext) -> list[Measurement]:
        held_out, training = held_out_texts(context, "contamination"), training_texts(context, "contamination")
        overlap = ngram_overlap(held_out, training, self.options.n)
        return [*self._shared_runs(overlap), self._nearest(held_out, training)]

    def _shared_runs(self, overlap: Mapping[str, tuple[int, int, str]]) -> list[Measurement]:
        runs = {document: (float(shared), float(total)) for document, (shared, total, _) in overlap.items() if total}
        found = [
            document for document, (shared, total) in runs.items() if shared >= self.options.contaminated_share * total
        ]
        whole = {document: (float(document in set(found)), 1.0) for document in runs}
        total = sum(count for _, count in runs.values())
        flags = (self._flag(found, len(runs), overlap),) if found else ()
        return [
            Measurement(
                "ngram_overlap",
                sum(shared for shared, _ in runs.values()) / total if total else float("nan"),
                "fraction",
                round(total),
                False,
                runs,
                {"words_per_run": self.options.n},
                label="Held-out runs of words in training",
            ),
            Measurement(
                "contaminated_documents",
                len(found) / len(runs) if runs else float("nan"),
                "fraction",
                len(runs),
                False,
                whole,
                {"at_least": self.options.contaminated_share},
                label="Held-out documents in training",
                flags=flags,
            ),
        ]

    def _flag(self, found: Sequence[str], documents: int, overlap: Mapping[str, tuple[int, int, str]]) -> Flag:
        shown = []
        for document in found[:SHOWN]:
            shared, total, where = overlap[document]
            shown.append({"held_out": document, "training": where, "share": shared / total})
        reason = (
            f"{len(found)} of {documents} held-out documents stand in the training data, e.g. {shown[0]['held_out']}: "
            "what is measured on them is memory; take them out of the training data or of the test"
        )
        return Flag("test-in-training", "error", reason, {"documents": len(found), "examples": shown})

    def _nearest(self, held_out: Mapping[str, str], training: Mapping[str, str]) -> Measurement:
        ours = vectors_of(list(held_out.values()), self.options.encoder)
        theirs = vectors_of(list(training.values()), self.options.encoder)
        cosines = ours @ theirs.T
        best, nearest = cosines.max(axis=1), [list(training)[index] for index in cosines.argmax(axis=1)]
        near = [
            {"held_out": document, "training": other, "similarity": float(value)}
            for document, other, value in zip(held_out, nearest, best, strict=True)
            if value >= self.options.near_duplicate
        ]
        reason = f"{len(near)} of {len(held_out)} held-out documents are nearly a training document's copy"
        evidence = {"documents": len(near), "examples": near[:SHOWN]}
        return Measurement(
            "nearest_training_similarity",
            float(best.mean()),
            "",
            len(held_out),
            False,
            {document: (float(value), 1.0) for document, value in zip(held_out, best, strict=True)},
            {"by": self.options.encoder or "hashed words", "largest": float(best.max())},
            label="Similarity to the nearest training document",
            flags=(Flag("near-duplicate-of-test", "warning", reason, evidence),) if near else (),
        )


def ngram_overlap(held_out: Mapping[str, str], training: Mapping[str, str], n: int) -> dict[str, tuple[int, int, str]]:
    """Per held-out document: runs of ``n`` words that stand in the training texts, all its runs, and where the first
    of them stands. A document with fewer words is one run of all of them; one without words has none.

    >>> ngram_overlap({"t": "a b c d"}, {"x": "z a b c z"}, 3)
    {'t': (1, 2, 'x')}
    """
    split = {document: words(text) for document, text in held_out.items()}
    runs = {document: _runs(found, min(n, len(found))) for document, found in split.items()}
    wanted: dict[int, set[tuple[str, ...]]] = {}
    for document, found in split.items():
        wanted.setdefault(min(n, len(found)), set()).update(runs[document])
    where: dict[tuple[str, ...], str] = {}
    for name, text in training.items():
        found = words(text)
        for length, grams in wanted.items():
            for run in _runs(found, length):
                if run in grams:
                    where.setdefault(run, name)
    result = {}
    for document, own in runs.items():
        shared = [run for run in own if run in where]
        result[document] = (len(shared), len(own), where[shared[0]] if shared else "")
    return result


def _runs(found: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(found[start : start + n]) for start in range(len(found) - n + 1)] if n else []
