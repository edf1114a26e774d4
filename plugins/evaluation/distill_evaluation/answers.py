"""How many held-out questions a model answers rightly, with and without writing a rationale first.

Legend: B questions of a batch, T positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch

from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext, Measurement, Verdict
from distill_evaluation.answers_options import AnswersOptions, AskOptions

SHOWN = 5
"""Answers shown in the details of a metric."""


class Answers:
    """Evaluator ``answers``: greedy answers, judged by a checker.

    - ``answer_accuracy_<way>``: mean score over the questions, each model asked in this way. A document is a question's
      ``document``, so standard errors are clustered by it.
    - ``answer_accuracy``, where ``trained_way`` is given: each model asked in the way it was trained for.
    """

    def __init__(self, options: AnswersOptions) -> None:
        self.options = options

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        if context.build is None:
            raise SignalError("answers builds a source and a checker, but this evaluation gives no `build`")
        options = self.options
        questions, checker = options.questions, options.checker
        source = context.build("source", {"use": questions.use, **questions.options})
        judge = context.build("checker", {"use": checker.use, **checker.options})
        records = list(islice(source.records(), options.limit))
        if not records:
            raise DataError(f"answers: the source {questions.use} yields no question")
        for record in records:
            if not isinstance(record.get("question"), str):
                raise DataError(
                    f"answers: document {record.get('document', '?')} of the source {questions.use} has no question; "
                    f"its fields: {', '.join(sorted(record))}"
                )
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
    sums: dict[str, tuple[float, float]] = {}
    shown: list[dict[str, Any]] = []
    unreadable = 0
    for index, (record, text) in enumerate(zip(records, texts, strict=True)):
        answer = read_answer(text, way.answer_pattern)
        unreadable += answer is None
        verdict: Verdict = Verdict(0.0, "no answer") if answer is None else judge.check(record, answer)
        document = str(record.get("document", f"question-{index}"))
        total, count = sums.get(document, (0.0, 0.0))
        sums[document] = (total + verdict.score, count + 1)
        if len(shown) < SHOWN:
            shown.append({"question": record["question"], "written": text, "answer": answer, "score": verdict.score,
                          "reason": verdict.reason})  # fmt: skip
    value = sum(total for total, _ in sums.values()) / len(records)
    detail = {"shown": shown, "without_answer": unreadable, "tokens_written": tokens}
    return _measurement(metric, value, len(records), sums, detail, metric.removeprefix("answer_accuracy_"))


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


@torch.no_grad()
def write(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, batch: int) -> tuple[list[str], int]:
    """Greedy continuations without the prompts, batched with left padding, and how many tokens were written.

    Prompts are encoded without special tokens, as the data stage encodes them; a model's own generation settings are
    set aside, so that all are asked alike.

    Raises:
        SignalError: a prompt that does not fit the model's context.
    """
    from transformers import GenerationConfig

    encoded = [list(tokenizer(prompt, add_special_tokens=False)["input_ids"]) for prompt in prompts]
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, encoded))
    if limit is not None and longest + max_new_tokens > limit:
        raise SignalError(
            f"a question of {longest} tokens and an answer of {max_new_tokens} do not fit the context of {limit} tokens"
        )
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (end if end is not None else 0)
    make_settings: Any = GenerationConfig
    settings = make_settings(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=end, pad_token_id=pad, use_cache=True
    )
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    texts, tokens = [""] * len(encoded), 0
    own, model.generation_config = model.generation_config, settings
    try:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            ids_BT, mask_BT = _left_padded([encoded[index] for index in chosen], pad, model.device)
            output_BT = model.generate(input_ids=ids_BT, attention_mask=mask_BT)
            for index, ids in zip(chosen, output_BT[:, ids_BT.shape[1] :].tolist(), strict=True):
                written = ids[: ids.index(end)] if end in ids else ids
                tokens += len(written)
                texts[index] = tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    finally:
        model.generation_config = own
    return texts, tokens


def _left_padded(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids_BT = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids_BT, mask_BT
