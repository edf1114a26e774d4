"""How well a teacher predicts held-out text, through its public interface alone.

Legend: N rows, M temperatures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_core.engine.data import TokenSequence, collate
from distill_core.errors import DataError, SignalError
from distill_core.plugin import Needs
from distill_core.store import sequence_key
from distill_core.types import SparseSpec, TokenBatch

BATCH_SEQUENCES = 8


def held_out_batches(source: Any, tokenizer: Any, *, sequences: int, length_tokens: int) -> Iterator[TokenBatch]:
    """Batches of the first records of a source, every token of them to be predicted.

    Args:
        source: yields records with ``text``, or ``prompt`` and ``completion``.
        tokenizer: of the teacher.
        sequences: records read.
        length_tokens: longer ones are cut there; shorter than 2 tokens are left out.

    Raises:
        DataError: nothing to predict.
    """
    found = []
    for record in islice(source.records(), sequences):
        text = record["text"] if "text" in record else f"{record['prompt']}{record['completion']}"
        ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"][:length_tokens], dtype=np.int32)
        if len(ids) >= 2:
            found.append(TokenSequence(ids, ids, str(record.get("document", len(found))), sequence_key(ids)))
    if not found:
        raise DataError("the held-out source has no record of two tokens or more: look at its paths and filters")
    for start in range(0, len(found), BATCH_SEQUENCES):
        yield collate(found[start : start + BATCH_SEQUENCES])


@torch.no_grad()
def label_loss(teacher: Any, batches: Iterable[TokenBatch], temperatures: Sequence[float]) -> Tensor:
    """[M] mean of ``-log p(label)`` in nat at each temperature, float64: exact, the label being the whole support.

    Raises:
        SignalError: the teacher gives no exact target on given ids.
    """
    sums_M = torch.zeros(len(temperatures), dtype=torch.float64)
    rows = 0
    needs = Needs(frozenset({"targets"}), ("exact",), tuple(temperatures))
    for batch in batches:
        labels_N1 = batch.rows().labels_N[:, None]
        spec = SparseSpec("topk", 1, tuple(temperatures), ids_NK=labels_N1)
        target = teacher.signals(batch, needs, spec).target
        if target is None or target.kind != "exact" or not torch.equal(target.ids_NK.cpu(), labels_N1.cpu()):
            raise SignalError(
                f"the teacher {teacher.identity()} gives no exact probability of a given token, so its loss cannot be "
                "measured: use a local model (hf), or give the number"
            )
        logp = [target.log_probs(temperature)[:, 0].double().sum() for temperature in temperatures]
        sums_M -= torch.stack(logp).cpu()
        rows += len(labels_N1)
    return sums_M / rows
