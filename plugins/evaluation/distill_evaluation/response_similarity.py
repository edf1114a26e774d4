"""Whether a model writes what its teacher writes: greedy continuations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_evaluation.likeness_options import ResponseSimilarityOptions
from distill_evaluation.questions import Sums
from distill_evaluation.text_vectors import words
from distill_evaluation.writing import held_out_prompts, write_ids


class ResponseSimilarity:
    """Evaluator ``response-similarity``: teacher and model continue the same held-out prompts greedily.

    - ``sequence_agreement``: share of the continuations that are the same, token by token.
    - ``agreed_prefix``: tokens before the first difference over tokens of the longer continuation.
    - ``response_similarity``: mean F1 of the longest common subsequence of words (ROUGE-L, Lin 2004);
      ``detail["by_chance"]`` has it with the teacher's answer to another prompt: what the language alone gives.

    Likeness is a degree of distillation, not a merit (idea: Lee et al., arXiv 2501.12619, whose judge model this
    does not use).
    """

    aspect = "distillation"

    def __init__(self, options: ResponseSimilarityOptions | None = None) -> None:
        self.options = options or ResponseSimilarityOptions()
        self._teachers: tuple[Any, list[list[int]]] | None = None

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        if context.is_teacher:
            return []
        teacher = getattr(context.teacher, "model", None)
        if context.labels:
            raise SignalError("response-similarity lets models write, but these tell classes apart")
        if teacher is None:
            raise SignalError(f"response-similarity lets the teacher write, but {context.teacher_missing}")
        prompts = held_out_prompts(context, self.options.prefix_tokens, self.options.prompts)
        ids = [prompt.ids for prompt in prompts]
        key = (id(teacher), tuple(prompt.key for prompt in prompts))
        if self._teachers is None or self._teachers[0] != key:
            self._teachers = (key, self._write(teacher, context, ids))
        theirs = self._teachers[1]
        ours = self._write(context.model, context, ids)
        same, prefix, rouge, chance = Sums(), Sums(), Sums(), Sums()
        said = [[words(text) for text in context.tokenizer.batch_decode(one)] for one in (ours, theirs)]
        for index, prompt in enumerate(prompts):
            same.add(prompt.document, float(ours[index] == theirs[index]))
            longer = max(len(ours[index]), len(theirs[index]))
            prefix.add(prompt.document, *((common_prefix(ours[index], theirs[index]), longer) if longer else (1, 1)))
            rouge.add(prompt.document, rouge_l(said[0][index], said[1][index]))
            chance.add(prompt.document, rouge_l(said[0][index], said[1][(index + 1) % len(prompts)]))
        n = len(prompts)
        return [
            Measurement("sequence_agreement", same.value, "fraction", n, None, same, {}, label="Same continuation"),
            Measurement("agreed_prefix", prefix.value, "fraction", n, None, prefix, {}, label="Agreed beginning"),
            Measurement(
                "response_similarity", rouge.value, "", n, None, rouge, {"by_chance": chance.value if n > 1 else None},
                label="Similarity of what is written",
            ),
        ]  # fmt: skip

    def _write(self, model: Any, context: EvaluationContext, ids: Sequence[Sequence[int]]) -> list[list[int]]:
        return write_ids(model, context.tokenizer, ids, self.options.max_new_tokens, self.options.batch_prompts)


def common_prefix(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Length of the common beginning.

    >>> common_prefix([1, 2, 3], [1, 2, 4])
    2
    """
    return next(
        (at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )


def rouge_l(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """F1 of the longest common subsequence; 1 for two empty texts, 0 for one.

    >>> rouge_l("the cat sat".split(), "the cat lay there".split())
    0.5714285714285714
    """
    if not ours or not theirs:
        return float(not ours and not theirs)
    best = [0] * (len(theirs) + 1)
    for word in ours:
        diagonal = 0
        for at, other in enumerate(theirs, start=1):
            above = best[at]
            best[at] = diagonal + 1 if word == other else max(above, best[at - 1])
            diagonal = above
    return 2 * best[-1] / (len(ours) + len(theirs))
