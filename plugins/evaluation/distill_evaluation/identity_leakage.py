"""Whom a model says it is, or was made by, when it is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_evaluation.likeness_options import IdentityLeakageOptions
from distill_evaluation.questions import Sums
from distill_evaluation.writing import write


class IdentityLeakage:
    """Evaluator ``identity-leakage``: greedy answers to the questions of a file, searched for names.

    - ``identity_claims``: share of the answers that name any of ``names``; ``detail["named"]`` how often each.
    - ``identity_leakage``: share that names the one of ``teacher``, where it is given (idea: identity consistency,
      Lee et al., arXiv 2501.12619).

    A question is the unit of the errors. Questions go through the chat template where the tokenizer has one. A name in
    the question itself does not count.
    """

    aspect = "distillation"

    def __init__(self, options: IdentityLeakageOptions | None = None) -> None:
        self.options = options or IdentityLeakageOptions()
        if self.options.teacher is not None and self.options.teacher not in self.options.names:
            known = ", ".join(self.options.names)
            raise DataError(f"identity-leakage: teacher is {self.options.teacher!r}, but the names are {known}")

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        if context.labels or context.tokenizer is None:
            raise SignalError("identity-leakage asks questions, but this model does not write")
        options = self.options
        questions = read_prompts(options.prompts)
        prompts = [_as_chat(context.tokenizer, question) for question in questions]
        answers, _ = write(context.model, context.tokenizer, prompts, options.max_new_tokens, options.batch_prompts)
        named = [
            named_in(answer, options.names) - named_in(question, options.names)
            for question, answer in zip(questions, answers, strict=True)
        ]
        counts = {who: sum(who in found for found in named) for who in options.names}
        detail = {
            "named": {who: count for who, count in counts.items() if count},
            "shown": [{"question": q, "answer": a} for q, a in zip(questions, answers, strict=True)][:5],
        }
        claims, leaks = Sums(), Sums()
        for question, found in zip(questions, named, strict=True):
            claims.add(question, float(bool(found)))
            leaks.add(question, float(options.teacher in found))
        n = len(questions)
        result = [
            Measurement("identity_claims", claims.value, "fraction", n, False, claims, detail, label="Names a maker")
        ]
        if options.teacher is not None:
            label = f"Says it is {options.teacher}'s"
            result.append(Measurement("identity_leakage", leaks.value, "fraction", n, False, leaks, {}, label=label))
        return result


def named_in(text: str, names: Mapping[str, Sequence[str]]) -> set[str]:
    """Who is named in a text by a whole word, case aside.

    >>> sorted(named_in("I am chatgpt, a philosopher.", {"OpenAI": ["ChatGPT"], "Microsoft": ["Phi"]}))
    ['OpenAI']
    """
    return {
        who
        for who, words in names.items()
        if any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in words)
    }


def read_prompts(path: str | None) -> list[str]:
    """The questions of a text file, or those that come with this package.

    Raises:
        DataError: no such file, none in it, or one twice.
    """
    if path is None:
        text = files("distill_evaluation").joinpath("identity_prompts.txt").read_text(encoding="utf-8")
    else:
        file = Path(path).expanduser()
        if not file.is_file():
            raise DataError(f"identity-leakage: {file} does not exist")
        text = file.read_text(encoding="utf-8")
    questions = [line.strip() for line in text.splitlines() if line.strip()]
    if not questions or len(set(questions)) < len(questions):
        raise DataError(f"identity-leakage: {path} needs at least one question, and none twice")
    return questions


def _as_chat(tokenizer: object, question: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        return f"{question}\n"
    messages = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))  # type: ignore[attr-defined]
