"""How far a model is from its teacher on what it writes itself.

Legend: B sequences, P tokens of a prompt, T tokens written, V ids that may be written.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_core.engine.row_pass import evaluate_rows
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_core.types import IGNORE, TokenBatch
from distill_evaluation.fidelity import Fidelity
from distill_evaluation.held_out import some_batches
from distill_evaluation.own_text_options import OwnTextOptions

LABELS = {"reverse_kl": "Reverse KL on own text", "forward_kl": "KL to the teacher on own text"}


class OwnText:
    """Evaluator ``own-text``: the model continues held-out prompts; teacher and model are compared on what it wrote.

    - ``own_text_reverse_kl``: mean over the written tokens of ``KL(q || p)``, q the model and p the teacher, both at
      the model's own prefix and over the whole vocabulary. Summed over a continuation, its expectation is the KL of
      whole continuations, ``E_{y ~ q} log q(y) / p(y)``, by the chain rule.
    - ``own_text_forward_kl``: the same with ``KL(p || q)``.

    Tokens are drawn at temperature 1, with numbers keyed by the seed and the sequence: every model draws with the same
    ones. A document is the sequence's, so standard errors are clustered by it.
    """

    aspect = "fidelity"

    def __init__(self, options: OwnTextOptions | None = None) -> None:
        self.options = options or OwnTextOptions()

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        if context.is_teacher:
            return []
        if context.labels:
            raise SignalError("own-text lets the model write, but this one tells classes apart")
        if not context.teacher_rows:
            raise SignalError(f"own-text compares with the teacher's full distribution, but {context.teacher_missing}")
        written = list(self._written(context))
        if not written:
            raise DataError("own-text: the held-out set has no sequences to continue")
        found = {m.metric: m for m in evaluate_rows(Fidelity(), replace(context, batches=lambda: written))}
        tokens = {"tokens_written": found["reverse_kl"].n}
        return [
            replace(
                found[metric], metric=f"own_text_{metric}", label=label, detail=tokens, primary=metric == "reverse_kl"
            )
            for metric, label in LABELS.items()
        ]

    def _written(self, context: EvaluationContext) -> Iterator[TokenBatch]:
        """Prompt and continuation of every held-out sequence; only what was written is to be predicted."""
        longest = self.options.max_new_tokens
        limit = getattr(context.model.config, "max_position_embeddings", None)
        for batch in some_batches(context, self.options.prompts):
            by_length: defaultdict[int, list[int]] = defaultdict(list)
            for index in range(len(batch.keys)):
                by_length[self._prompt_tokens(batch, index)].append(index)
            for length, chosen in by_length.items():
                if limit is not None and length + longest > limit:
                    raise SignalError(
                        f"own-text: a prompt of {length} tokens and {longest} more do not fit the model's context of "
                        f"{limit} tokens: lower max_new_tokens"
                    )
                uniforms_BT = np.stack([_uniforms(batch.keys[i], longest, self.options.seed) for i in chosen])
                prompts_BP = batch.input_ids_BT[chosen, :length]
                end = context.tokenizer.eos_token_id
                written = continued(context.model, prompts_BP, uniforms_BT, vocabulary=len(context.tokenizer), end=end)
                yield _as_batch(batch, chosen, prompts_BP, written)

    def _prompt_tokens(self, batch: TokenBatch, index: int) -> int:
        """A record's own prompt, which is not predicted; of a plain text, its first tokens."""
        tokens = int(batch.attention_mask_BT[index].sum())
        predicted = (batch.labels_BT[index, :tokens] != IGNORE).nonzero()
        masked = int(predicted[0]) if len(predicted) else tokens
        return masked if masked > 1 else min(self.options.prefix_tokens, tokens)


def _uniforms(key: bytes, count: int, seed: int) -> Any:
    return np.random.default_rng([seed, int.from_bytes(key, "big")]).random(count)


@torch.no_grad()
def continued(
    model: Any,
    prompts_BP: Tensor,
    uniforms_BT: Any,
    *,
    vocabulary: int,
    end: int | None = None,
    temperature: float = 1.0,
) -> list[list[int]]:
    """Continuations drawn at a temperature, the end token included: each token inverts the distribution function.

    Args:
        prompts_BP: int64 prompts of one length, at least one token.
        uniforms_BT: numbers in [0, 1), one per token that may be written.
        vocabulary: ids below this may be written.
        end: id that ends a continuation.
        temperature: above 0.
    """
    device = model.device
    uniforms_BT = torch.as_tensor(uniforms_BT, dtype=torch.float64, device=device)
    written: list[list[int]] = [[] for _ in range(len(prompts_BP))]
    ended_B = torch.zeros(len(prompts_BP), dtype=torch.bool, device=device)
    ids_BP, cache = prompts_BP.to(device), None
    for u_B in uniforms_BT.T:
        output = model(input_ids=ids_BP, past_key_values=cache, use_cache=True)
        logits_BV = output.logits[:, -1, :vocabulary].double() / temperature
        cdf_BV = logits_BV.softmax(dim=1).cumsum(dim=1)
        drawn_B1 = torch.searchsorted(cdf_BV, (u_B * cdf_BV[:, -1])[:, None], right=True).clamp_max(cdf_BV.shape[1] - 1)
        for row, (token, ended) in enumerate(zip(drawn_B1[:, 0].tolist(), ended_B.tolist(), strict=True)):
            if not ended:
                written[row].append(token)
        if end is not None:
            ended_B |= drawn_B1[:, 0] == end
            if bool(ended_B.all()):
                break
        ids_BP, cache = drawn_B1, output.past_key_values
    return written


def _as_batch(batch: TokenBatch, chosen: Sequence[int], prompts_BP: Tensor, written: list[list[int]]) -> TokenBatch:
    width = prompts_BP.shape[1]
    shape = (len(chosen), width + max(map(len, written)))
    ids_BT, mask_BT = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    labels_BT = torch.full(shape, IGNORE, dtype=torch.int64)
    ids_BT[:, :width], mask_BT[:, :width] = prompts_BP, 1
    for row, ids in enumerate(written):
        stop = width + len(ids)
        ids_BT[row, width:stop] = labels_BT[row, width:stop] = torch.tensor(ids)
        mask_BT[row, width:stop] = 1
    documents = tuple(batch.documents[index] for index in chosen)
    return TokenBatch(ids_BT, mask_BT, labels_BT, tuple(batch.keys[index] for index in chosen), documents)
