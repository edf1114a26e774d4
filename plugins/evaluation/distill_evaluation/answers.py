"""How many held-out questions a model answers rightly, with and without writing a rationale first.

Legend: B questions of a batch, T positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.interfaces import EvaluationContext, Measurement, Verdict
from distill_evaluation.answers_options import AnswersOptions
from distill_evaluation.asking_options import AskOptions
from distill_evaluation.questions import Sums, built, document_of, questions_of
from distill_evaluation.writing import write

SHOWN = 5
"""Answers shown in the details of a metric."""


class Answers:
    """Evaluator ``answers``: greedy answers, judged by a checker.

    - ``answer_accuracy_<way>``: mean score over the questions, each model asked in this way. A document is a question's
      ``document``, so standard errors are clustered by it.
    - ``answer_accuracy``, where ``trained_way`` is given: each model asked in the way it was trained for.
    """

    aspect = "reasoning"

    def __init__(self, options: AnswersOptions) -> None:
        self.options = options

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        options = self.options
        records = questions_of(options, context, "answers")
        judge = built(context, "checker", options.checker, "answers")
        found = {}
        for name, way in options.ways.items():
            found[name] = _measure(f"answer_accuracy_{name}", way, records, judge, context, options.batch_questions)
        result = list(found.values())
        if options.trained_way:
            own = options.trained_way.get(context.name, next(iter(options.ways)))
            one = found[own]
            detail = {"way": own}
            result.append(_measurement("answer_accuracy", one.value, one.n, one.document_sums, detail, "Answers"))
        return result


def _measure(
    metric: str,
    way: AskOptions,
    records: Sequence[Mapping[str, Any]],
    judge: Any,
    context: EvaluationContext,
    batch_questions: int,
) -> Measurement:
    prompts = [way.prompt.replace("{question}", record["question"]) for record in records]
    texts, tokens = write(context.model, context.tokenizer, prompts, way.max_new_tokens, batch_questions)
    sums = Sums()
    shown: list[dict[str, Any]] = []
    unreadable = 0
    for index, (record, text) in enumerate(zip(records, texts, strict=True)):
        answer = read_answer(text, way.answer_pattern)
        unreadable += answer is None
        verdict: Verdict = Verdict(0.0, "no answer") if answer is None else judge.check(record, answer)
        sums.add(document_of(record, index), verdict.score)
        if len(shown) < SHOWN:
            shown.append({"question": record["question"], "written": text, "answer": answer, "score": verdict.score,
                          "reason": verdict.reason})  # fmt: skip
    detail = {"shown": shown, "without_answer": unreadable, "tokens_written": tokens}
    return _measurement(metric, sums.value, len(records), sums, detail, metric.removeprefix("answer_accuracy_"))


def _measurement(
    metric: str, value: float, n: int, sums: Mapping[str, tuple[float, float]], detail: Mapping[str, Any], label: str
) -> Measurement:
    primary = metric == "answer_accuracy"
    text = "Answers right" if primary else f"Answers right, {label}"
    return Measurement(metric, value, "fraction", n, True, sums, detail, label=text, primary=primary)


def read_answer(text: str, pattern: str | None) -> str | None:
    """The answer in what was written: the last match's group, or the first line; None where there is none.

    >>> read_answer("3 + 4 = 7. Answer: 7", r"Answer: (?P<answer>.+)"), read_answer(" 7\\nmore", None)
    ('7', '7')
    """
    if pattern is None:
        lines = text.strip().splitlines()
        return lines[0].strip() if lines else None
    found = list(re.finditer(pattern, text))
    return found[-1]["answer"].strip() or None if found else None
