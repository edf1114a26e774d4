"""One pass of several models over the held-out batches, chunk by chunk of rows, the teacher run once per batch.

Legend: B sequences, T positions, D hidden, N rows of a batch, n rows of a chunk, V vocabulary.

Per batch every model's decoder runs once and leaves hidden states [N, D]; then the rows are walked in chunks, and only
the teacher's and one model's logits [n, V] exist at a time. No tensor of tokens x V is ever made for a whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from distill_core.engine.classifier import logits_of_rows
from distill_core.engine.head import decoder_of, head_spec
from distill_core.errors import TrainingError
from distill_core.interfaces import (
    EvaluatedRows,
    EvaluationContext,
    Measurement,
    RowAccumulator,
    RowEvaluator,
)
from distill_core.types import RowIndex, TokenBatch

CHUNK_BYTES = 32 * 2**20
"""Size of one chunk of fp32 logits."""


class BatchScores(Protocol):
    """A model's answer for one batch, from which logits of any chunk of rows can be had."""

    def logits(self, cut: slice) -> Tensor: ...


class Scorer:
    """Gives a causal language model's logits at the rows of a batch, a chunk at a time.

    ``method``: ``chunked`` (decoder once, then the head on chunks of rows) or, for models whose head is not a plain
    linear layer on the decoder's output, ``by-sequence`` (the model's own forward, one sequence at a time).
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.method, self.reason = "chunked", ""
        try:
            self.spec = head_spec(model)
        except TrainingError as error:
            self.method, self.reason = "by-sequence", str(error)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0]) if self.method == "chunked" else 0

    @property
    def device(self) -> torch.device:
        device: torch.device = next(iter(self.model.parameters())).device
        return device

    def scores(self, batch: TokenBatch, index: RowIndex) -> BatchScores:
        """Run the model on a batch (already on its device)."""
        if self.method == "by-sequence":
            return _BySequence(self.model, batch, index)
        decoded = decoder_of(self.model)(
            input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False, return_dict=True
        )
        return _Chunked(index.select(decoded.last_hidden_state), self)

    def head(self, hidden_nD: Tensor) -> Tensor:
        head = self.model.get_output_embeddings()
        return self.spec.apply(functional.linear(hidden_nD, head.weight, head.bias).float())


class ClassifierScorer(Scorer):
    """Gives a classifier's logits: its own forward, whole; there are few classes."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.method, self.reason = "whole", ""
        self.vocabulary = int(model.config.num_labels)

    def scores(self, batch: TokenBatch, index: RowIndex) -> BatchScores:
        return _Whole(logits_of_rows(self.model(**batch.model_inputs()).logits, index).float())


def scorer_of(model: Any, labels: Sequence[str]) -> Scorer:
    """How a model is asked: a classifier where there are labels, else a causal language model."""
    return ClassifierScorer(model) if labels else Scorer(model)


class _Whole:
    def __init__(self, logits_NV: Tensor) -> None:
        self.logits_NV = logits_NV

    def logits(self, cut: slice) -> Tensor:
        return self.logits_NV[cut]


class _Chunked:
    def __init__(self, hidden_ND: Tensor, scorer: Scorer) -> None:
        self.hidden_ND, self.scorer = hidden_ND, scorer

    def logits(self, cut: slice) -> Tensor:
        return self.scorer.head(self.hidden_ND[cut])


class _BySequence:
    def __init__(self, model: Any, batch: TokenBatch, index: RowIndex) -> None:
        self.model, self.batch, self.index = model, batch, index
        self._held = -1
        self._logits_TV = torch.empty(0)

    def logits(self, cut: slice) -> Tensor:
        parts = []
        sequence_n, position_n = self.index.sequence_N[cut], self.index.position_N[cut]
        for sequence in torch.unique(sequence_n).tolist():
            parts.append(self._sequence(sequence)[position_n[sequence_n == sequence]])
        return torch.cat(parts).float()

    def _sequence(self, sequence: int) -> Tensor:
        if sequence != self._held:
            one = slice(sequence, sequence + 1)
            output = self.model(
                input_ids=self.batch.input_ids_BT[one],
                attention_mask=self.batch.attention_mask_BT[one],
                use_cache=False,
            )
            self._held, self._logits_TV = sequence, output.logits[0]
        return self._logits_TV


@torch.no_grad()
def row_pass(
    batches: Iterable[TokenBatch],
    scorers: Mapping[str, Scorer],
    accumulators: Mapping[str, Sequence[RowAccumulator]],
    *,
    teacher: str | None,
    effective_vocabulary: int,
    chunk_rows: int | None = None,
    on_batch: Callable[[int], None] = lambda rows: None,
) -> int:
    """Feed every accumulator with every row; returns the number of rows.

    Args:
        batches: held-out batches, gone over once.
        scorers: models by name, the teacher among them if there is one.
        accumulators: what to feed, by model name; the teacher may have none.
        teacher: name of the scorer whose logits accompany the others', or None.
        effective_vocabulary: ``len(tokenizer)``, or the number of classes.
        chunk_rows: rows per chunk; default: as many as keep a chunk of logits at 32 MiB.
        on_batch: told the number of rows after each batch.
    """
    fed = [name for name, sinks in accumulators.items() if sinks]
    order = [name for name in scorers if name in fed and name != teacher]
    needed = order + ([teacher] if teacher is not None else [])
    total = 0
    for batch in batches:
        index = batch.rows()
        answers = {}
        for name in needed:
            scorer = scorers[name]
            placed = batch.to(scorer.device)
            answers[name] = (placed, placed.rows(), scorer)
        scores = {name: scorer.scores(placed, rows) for name, (placed, rows, scorer) in answers.items()}
        step = chunk_rows or _chunk_rows([scorers[name].vocabulary for name in needed])
        for start in range(0, len(index), step):
            cut = slice(start, min(start + step, len(index)))
            memo: dict[str, Any] = {}
            teacher_logits_nU = None if teacher is None else scores[teacher].logits(cut)
            for name in needed if teacher in fed else order:
                placed, rows, _ = answers[name]
                logits_nV = teacher_logits_nU if name == teacher else scores[name].logits(cut)
                assert logits_nV is not None
                beside = None if teacher_logits_nU is None else teacher_logits_nU.to(logits_nV.device)
                view = EvaluatedRows(placed, rows, cut, logits_nV, beside, effective_vocabulary, memo)
                for accumulator in accumulators[name]:
                    accumulator.update(view)
        total += len(index)
        on_batch(len(index))
    return total


def _chunk_rows(vocabularies: Sequence[int]) -> int:
    return max(1, CHUNK_BYTES // (4 * max([*vocabularies, 1024])))


def evaluate_rows(evaluator: RowEvaluator, context: EvaluationContext) -> list[Measurement]:
    """Run one row evaluator on one model in a pass of its own: what ``evaluator.evaluate(context)`` does.

    The teacher's full distribution is that of ``context.teacher.model`` where it has one.
    """
    accumulator = evaluator.begin(context)
    if accumulator is None:
        return []
    scorers = {context.name: scorer_of(context.model, context.labels)}
    teacher_name = None
    if context.teacher_rows and not context.is_teacher:
        teacher_name = "teacher" if context.name != "teacher" else "the teacher"
        scorers[teacher_name] = scorer_of(context.teacher.model, context.labels)  # type: ignore[union-attr]
    row_pass(
        context.batches(),
        scorers,
        {context.name: [accumulator]},
        teacher=teacher_name,
        effective_vocabulary=len(context.labels) or len(context.tokenizer),
    )
    return accumulator.measurements()
