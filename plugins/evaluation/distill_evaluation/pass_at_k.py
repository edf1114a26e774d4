"""How often at least one of k tries at a question is right."""

from __future__ import annotations

import math

from distill_core.interfaces import EvaluationContext, Measurement
from distill_evaluation.answers import read_answer
from distill_evaluation.questions import Sums, built, document_of, questions_of
from distill_evaluation.reasoning_options import PassAtKOptions
from distill_evaluation.writing import drawn


class PassAtK:
    """Evaluator ``pass-at-k``: ``samples`` answers are drawn per question, each judged by a checker.

    ``pass_at_<k>``: mean over questions of ``1 - C(n - c, k) / C(n, k)``, n samples of which c are right: the unbiased
    estimator of the chance that one of k is (Chen et al., arXiv 2107.03374, equation 1). Errors are clustered by the
    question's document; what was drawn is part of them.
    """

    aspect = "reasoning"

    def __init__(self, options: PassAtKOptions) -> None:
        self.options = options

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        options = self.options
        records = questions_of(options, context, "pass-at-k")
        judge = built(context, "checker", options.checker, "pass-at-k")
        prompts = []
        for index, record in enumerate(records):
            text = options.way.prompt.replace("{question}", record["question"])
            ids = list(context.tokenizer(text, add_special_tokens=False)["input_ids"])
            prompts += [(index * options.samples + sample, ids) for sample in range(options.samples)]
        texts = drawn(
            context,
            prompts,
            max_new_tokens=options.way.max_new_tokens,
            temperature=options.temperature,
            seed=options.seed,
            batch=options.batch_questions,
        )
        sums = {k: Sums() for k in options.k}
        for index, record in enumerate(records):
            own = texts[index * options.samples : (index + 1) * options.samples]
            answers = [read_answer(text, options.way.answer_pattern) for text in own]
            right = sum(answer is not None and judge.check(record, answer).score >= 1 for answer in answers)
            for k in options.k:
                sums[k].add(document_of(record, index), pass_at_k(options.samples, right, k))
        detail = {"samples": options.samples, "temperature": options.temperature}
        return [
            Measurement(
                f"pass_at_{k}", sums[k].value, "fraction", len(records), True, sums[k], detail, label=f"Pass@{k}"
            )
            for k in options.k
        ]


def pass_at_k(samples: int, right: int, k: int) -> float:
    """``1 - C(n - c, k) / C(n, k)``.

    >>> pass_at_k(4, 2, 1), pass_at_k(4, 2, 3), round(pass_at_k(4, 1, 2), 6)
    (0.5, 1.0, 0.5)
    """
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)
