"""The synthesizer ``rationales``: a teacher writes how it gets to its answers; those that can be trusted stay."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distill_core.completions import GenerationParameters, GenerationRequest
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import SynthesisContext
from distill_synthesis.asking.completion_cache import CompletionCache
from distill_synthesis.rationales.options import RationalesOptions
from distill_synthesis.rationales.samples import Sample, chosen, judged, read_sample
from distill_synthesis.rationales.template import PromptTemplate


@dataclass
class _Question:
    record: Mapping[str, Any]
    number: int
    samples: list[Sample]
    votes: dict[str, int]

    @property
    def document(self) -> str:
        return str(self.record.get("document", f"question-{self.number}"))


class Rationales:
    """Several rationales per question, voted on and checked, each with its provenance.

    Chain-of-thought prompting of a teacher (Large Language Models Are Reasoning Teachers, arXiv 2212.10071), rejection
    by the answer and a second try with the answer as a hint (STaR, 2203.14465), the majority vote of self-consistency
    (2203.11171), rationales of several teachers for the same question, each with its weight (2402.04616).
    """

    def __init__(self, options: RationalesOptions) -> None:
        self.options = options
        self.template = PromptTemplate(None if options.template is None else Path(options.template).expanduser())
        if options.hint_failed and not self.template.shows_hint:
            raise DataError(
                f"hint_failed gives the answer as a hint, but the template {self.template.path} never shows "
                "{{ hint }}: add it, or leave hint_failed out"
            )
        self.pattern = re.compile(options.answer_pattern)
        self.questions = self.answered = self.kept = self.asked = self.from_cache = 0
        self.rejected: Counter[str] = Counter()

    def build(self, ctx: SynthesisContext) -> None:
        """Raises ``SignalError`` where the teacher cannot write."""
        named = self.options.teachers or {"": 1.0}
        self.teachers = {name: ctx.teacher(name or self.options.teacher) for name in named}
        self.weights = dict(named)
        for teacher in self.teachers.values():
            if not callable(getattr(teacher, "generate", None)):
                raise SignalError(
                    f"rationales are written by the teacher, but {teacher.identity()} has no generate(): name a "
                    "teacher that gives the signal `text`"
                )
        checker = self.options.checker
        self.checker = None if checker is None else ctx.build("checker", {"use": checker.use, **checker.options})
        self.parameters = GenerationParameters(
            max_new_tokens=self.options.max_new_tokens,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            stop=tuple(self.options.stop),
            seed=ctx.seed,
        )
        self.say = ctx.say

    def synthesize(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]:
        """One record per kept rationale: question, rationale, answer, weight and provenance.

        Raises:
            DataError: a record without a question (or without an answer to check), or no rationale was kept.
        """
        caches = {name: CompletionCache(directory, teacher) for name, teacher in self.teachers.items()}
        records = enumerate(source)
        size = max(1, self.options.window // self.options.samples)
        while window := list(islice(records, size)):
            questions = [_Question(_with_question(record, number), number, [], {}) for number, record in window]
            self._sample({name: questions for name in caches}, caches, hinted=False)
            if self.options.hint_failed:
                failed = {name: [q for q in questions if not chosen(_of(q.samples, name), 1)] for name in caches}
                self._sample(failed, caches, hinted=True)
            for question in questions:
                yield from self._records(question)
            self.asked = sum(cache.asked for cache in caches.values())
            self.from_cache = self._samples_seen() - self.asked
        if not self.kept:
            where = next(iter(caches.values())).path
            raise DataError(f"no rationale was kept: {self.sentence()}; look at {where}, where all that was "
                            "written is, then change the examples, the template or what `select` asks for")  # fmt: skip
        self.say(f"rationales: {self.sentence()}")

    def _sample(
        self, questions: Mapping[str, Sequence[_Question]], caches: Mapping[str, CompletionCache], *, hinted: bool
    ) -> None:
        """Every teacher writes for its questions; then all that was written for a question is voted on and judged."""
        asked: dict[int, _Question] = {}
        for name, own in questions.items():
            requests, owners = [], []
            for question in own:
                asked[question.number] = question
                for draw in range(1 if hinted else self.options.samples):
                    hint = str(question.record["answer"]) if hinted else ""
                    request = f"{question.number}:{question.document}#{'hint' if hinted else draw}"
                    requests.append(GenerationRequest(request, prompt=self._prompt(question, hint)))
                    owners.append(question)
            written = caches[name].complete(requests, self.parameters)
            for question, (_, completion) in zip(owners, written, strict=True):
                question.samples.append(read_sample(completion, self.pattern, hinted=hinted, teacher=name))
        for question in asked.values():
            fresh = [sample for sample in question.samples if sample.hinted == hinted]
            done, votes = judged(fresh, question.record, self.checker, self.options)
            question.samples = [s for s in question.samples if s.hinted != hinted] + done
            question.votes = question.votes or votes

    def _prompt(self, question: _Question, hint: str) -> str:
        examples = [example.model_dump() for example in self.options.examples]
        return self.template.render(str(question.record["question"]), examples=examples, hint=hint)

    def _records(self, question: _Question) -> Iterator[dict[str, Any]]:
        self.questions += 1
        self.rejected.update(sample.rejected for sample in question.samples if sample.rejected)
        kept = [one for name in self.teachers for one in chosen(_of(question.samples, name), self.options.keep)]
        accepted = sum(not sample.rejected for sample in question.samples)
        if accepted > len(kept):
            self.rejected["same as another, or beyond `keep`"] += accepted - len(kept)
        self.answered += bool(kept)
        self.kept += len(kept)
        own, provenance = question.record.get("weight", 1.0), question.record.get("provenance") or {}
        for sample in kept:
            base = {k: v for k, v in question.record.items() if k not in ("prompt", "completion", "text")}
            if self.options.teachers is not None:
                base["rationale_weight"] = self.weights[sample.teacher]
            yield {
                **base,
                "document": question.document,
                "rationale": sample.rationale,
                "answer": sample.answer if question.record.get("answer") is None else question.record["answer"],
                "weight": own / len(kept) if self.options.weight == "question" else own,
                "provenance": {**provenance, "rationale": self._origin(question, sample)},
            }

    def _origin(self, question: _Question, sample: Sample) -> dict[str, Any]:
        return {
            "teacher": self.teachers[sample.teacher].identity(),
            "template_sha256": self.template.digest,
            "examples": len(self.options.examples),
            "parameters": {**asdict(self.parameters), "stop": list(self.parameters.stop)},
            "samples": len(question.samples),
            "votes": question.votes,
            "sample": sample.id,
            "hinted": sample.hinted,
            "written_answer": sample.answer,
            "score": sample.score,
            "verdicts": [other.rejected or "accepted" for other in question.samples],
            "select": self.options.select,
        }

    def _samples_seen(self) -> int:
        return self.kept + self.rejected.total()

    def summary(self) -> dict[str, Any]:
        """The funnel."""
        return {
            "questions": self.questions,
            "questions_with_a_rationale": self.answered,
            "samples": self._samples_seen(),
            "samples_from_cache": self.from_cache,
            "rationales_kept": self.kept,
            "rejected": dict(self.rejected.most_common()),
        }

    def sentence(self) -> str:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.rejected.most_common())
        return (
            f"{self.questions} questions, {self._samples_seen()} samples, {self.kept} rationales kept for "
            f"{self.answered} questions" + (f" (left out: {reasons})" if reasons else "")
        )


def _of(samples: Sequence[Sample], teacher: str) -> list[Sample]:
    return [sample for sample in samples if sample.teacher == teacher]


def _with_question(record: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    if isinstance(record.get("question"), str) and record["question"].strip():
        return record
    raise DataError(
        f"record {number} (document {record.get('document', '?')}) has no question; rationales are written for records "
        f"with the field `question`, and checked against `answer`; it has {', '.join(sorted(record)) or 'no field'}"
    )
