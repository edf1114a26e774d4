"""How well a model predicts held-out text: cross-entropy, perplexity, bits per byte, next-token accuracy.

Legend: n rows of a chunk, V vocabulary.
"""

from __future__ import annotations

import math

from distill_core.engine.row_pass import evaluate_rows
from distill_core.engine.totals import DocumentTotals, documents_of
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_core.options import NoOptions


class LanguageModel:
    """Evaluator ``language-model``.

    - ``cross_entropy``, nat per token: ``-log q(label)`` under the softmax over all rows of the model's head.
    - ``perplexity``: its exponential.
    - ``bits_per_byte``: the same nats / ln 2 / bytes, comparable between tokenizers. Bytes are those of the UTF-8
      encoding of the text that each sequence's predicted tokens decode to *together*, special tokens skipped and no
      clean-up of spaces. A first token that nothing predicts, and tokens that are not to be predicted, count in
      neither; a character cut by a sequence's end counts as the three bytes of U+FFFD.
    - ``accuracy``: share of rows whose most likely token is the label.
    """

    aspect = "utility"

    def __init__(self, options: NoOptions | None = None) -> None:
        self.options = options or NoOptions()

    def begin(self, context: EvaluationContext) -> _LanguageModelRows:
        if context.labels:
            raise SignalError("language-model measures the prediction of text; the classes of a task: classification")
        return _LanguageModelRows(context)

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        return evaluate_rows(self, context)


class _LanguageModelRows:
    def __init__(self, context: EvaluationContext) -> None:
        self.tokenizer = context.tokenizer
        self.nats, self.correct = DocumentTotals(), DocumentTotals()
        self.bytes: dict[str, float] = {}

    def update(self, rows: EvaluatedRows) -> None:
        if rows.cut.start == 0:
            self._count_bytes(rows)
        label_n1 = rows.labels_n[:, None]
        self.nats.add(rows, -rows.logp_nV.gather(1, label_n1)[:, 0])
        self.correct.add(rows, (rows.best_n[1] == rows.labels_n).float())

    def _count_bytes(self, rows: EvaluatedRows) -> None:
        for sequence, document in enumerate(documents_of(rows)):
            labels = rows.index.labels_N[rows.index.sequence_N == sequence].tolist()
            text = self.tokenizer.decode(labels, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            self.bytes[document] = self.bytes.get(document, 0.0) + len(text.encode("utf-8", errors="replace"))

    def measurements(self) -> list[Measurement]:
        nats, n = self.nats.sums(), self.nats.count
        bits = {document: (total / math.log(2), self.bytes[document]) for document, (total, _) in nats.items()}
        n_bytes = math.fsum(self.bytes.values())
        bits_per_byte = math.fsum(total for total, _ in bits.values()) / n_bytes if n_bytes else math.nan
        cross_entropy = self.nats.value
        ppl = math.exp(min(cross_entropy, 700.0))
        return [
            Measurement(
                "cross_entropy", cross_entropy, "nat/token", n, False, nats, {}, label="Cross-entropy", primary=True
            ),
            Measurement(
                "perplexity",
                ppl,
                "",
                n,
                False,
                nats,
                {},
                transform="exp",
                derived_from="cross_entropy",
                label="Perplexity",
            ),
            Measurement(
                "bits_per_byte", bits_per_byte, "bit/byte", n, False, bits, {"bytes": n_bytes}, label="Bits per byte"
            ),
            Measurement(
                "accuracy",
                self.correct.value,
                "fraction",
                n,
                True,
                self.correct.sums(),
                {},
                label="Next-token accuracy",
            ),
        ]
