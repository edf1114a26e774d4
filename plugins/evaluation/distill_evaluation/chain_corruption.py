"""Does the answer depend on the chain before it? Asked again behind no chain, half of it, shuffled steps, another's."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.errors import DataError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_evaluation.answers import read_answer
from distill_evaluation.questions import Sums, built, document_of, questions_of
from distill_evaluation.reasoning_options import ChainCorruptionOptions
from distill_evaluation.writing import write


class ChainCorruption:
    """Evaluator ``chain-corruption``: the same question answered behind the intact chain and behind damaged ones.

    - ``chain_accuracy_<chain>``: mean score of the answers behind ``intact``, ``none``, ``truncated``, ``shuffled`` and
      ``foreign`` chains. Intact minus none is what the chain adds.
    - ``chain_changed_<chain>``: share of the answers that differ from those behind the intact chain (as early
      answering and adding mistakes in Lanham et al., arXiv 2307.13702). Near 0 behind a foreign chain: not used.

    A chain is what the model writes greedily up to ``answer_lead``, or the record's ``rationale``. ``truncated`` keeps
    the first half of its steps, rounded down; ``shuffled`` is never the same order where there are two different steps;
    ``foreign`` is the next question's.
    """

    aspect = "reasoning"

    def __init__(self, options: ChainCorruptionOptions) -> None:
        self.options = options

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        options = self.options
        records = questions_of(options, context, "chain-corruption")
        judge = built(context, "checker", options.checker, "chain-corruption")
        prompts = [options.prompt.replace("{question}", record["question"]) for record in records]
        chains = self._chains(context, records, prompts)
        answers = {
            name: self._answers(context, prompts, corrupted(chains, name, options.step_end, options.seed))
            for name in ("intact", *options.corruptions)
        }
        same = getattr(judge, "canonical", str.strip)
        found = []
        for name, given in answers.items():
            scores, changes = Sums(), Sums()
            for index, (record, answer) in enumerate(zip(records, given, strict=True)):
                document, intact = document_of(record, index), answers["intact"][index]
                scores.add(document, 0.0 if answer is None else judge.check(record, answer).score)
                kept = intact == answer or (None not in (intact, answer) and same(intact) == same(answer))
                changes.add(document, float(not kept))
            what = "behind " + {"none": "no chain", "foreign": "another's chain"}.get(name, f"a chain {name}")
            found.append(
                Measurement(
                    f"chain_accuracy_{name}", scores.value, "fraction", len(records), True, scores, {},
                    label=f"Answers right {what}",
                )
            )  # fmt: skip
            if name != "intact":
                found.append(
                    Measurement(
                        f"chain_changed_{name}", changes.value, "fraction", len(records), True, changes, {},
                        label=f"Answers changed {what}",
                    )
                )  # fmt: skip
        return found

    def _chains(
        self, context: EvaluationContext, records: Sequence[Mapping[str, Any]], prompts: Sequence[str]
    ) -> list[str]:
        options = self.options
        if options.chains == "record":
            for record in records:
                if not isinstance(record.get("rationale"), str):
                    raise DataError(f"chain-corruption: document {record.get('document', '?')} has no rationale")
            return [record["rationale"].strip() for record in records]
        return own_chains(context, prompts, options.answer_lead, options.max_chain_tokens, options.batch_questions)

    def _answers(self, context: EvaluationContext, prompts: Sequence[str], chains: Sequence[str]) -> list[str | None]:
        options = self.options
        given = [
            f"{p}{chain}{' ' if chain else ''}{options.answer_lead}" for p, chain in zip(prompts, chains, strict=True)
        ]
        texts, _ = write(context.model, context.tokenizer, given, options.max_answer_tokens, options.batch_questions)
        return [read_answer(text, None) for text in texts]


def own_chains(
    context: EvaluationContext, prompts: Sequence[str], answer_lead: str, max_tokens: int, batch: int
) -> list[str]:
    """What the model writes after each prompt, up to where the answer is announced."""
    texts, _ = write(context.model, context.tokenizer, prompts, max_tokens, batch)
    return [text.partition(answer_lead)[0].strip() for text in texts]


def steps_of(chain: str, step_end: str) -> list[str]:
    """The steps of a chain, none of them empty.

    >>> steps_of("1 + 2 = 3. 3 + 4 = 7.", r"(?<=[.;])\\s+")
    ['1 + 2 = 3.', '3 + 4 = 7.']
    """
    return [step.strip() for step in re.split(step_end, chain) if step and step.strip()]


def corrupted(chains: Sequence[str], how: str, step_end: str, seed: int) -> list[str]:
    """Every chain as ``how`` says: intact, none, truncated, shuffled, foreign.

    >>> corrupted(["a. b. c.", "d."], "truncated", r"(?<=[.;])\\s+", 0)
    ['a.', '']
    """
    if how == "intact":
        return list(chains)
    if how == "none":
        return [""] * len(chains)
    if how == "foreign":
        return [*chains[1:], *chains[:1]]
    found = []
    for index, chain in enumerate(chains):
        steps = steps_of(chain, step_end)
        if how == "truncated":
            found.append(" ".join(steps[: len(steps) // 2]))
            continue
        shuffled, draw = list(steps), random.Random(f"{seed} {index}")
        while len(set(steps)) > 1 and shuffled == steps:
            draw.shuffle(shuffled)
        found.append(" ".join(shuffled))
    return found
