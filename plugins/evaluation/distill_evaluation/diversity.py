"""How varied the training data is, and what a model writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from distill_core.engine.resampling import jackknife_sums
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_evaluation import diversity_measures as measures
from distill_evaluation.diversity_options import DiversityOptions
from distill_evaluation.text_vectors import vectors_of, words
from distill_evaluation.texts import training_texts
from distill_evaluation.writing import Prompt, drawn, held_out_prompts

UNLABELLED = "(unlabelled)"


class Diversity:
    """Evaluator ``diversity``: of the training data (``data_...``) and of what a model writes (``output_...``).

    On the first ``words_per_text`` words of at most ``texts`` documents; higher is more varied but where said:

    - ``distinct_<n>``: different n-grams over all n-grams; falls with more text, so compare sets of one size.
    - ``self_bleu``: mean BLEU-4 of each text against all others; lower is more varied.
    - ``compression_ratio``: bytes over compressed bytes; lower is more varied.
    - ``vendi_score``: effective number of different texts, by cosines of their vectors.
    - ``neighbour_distance``: mean of 1 - the largest cosine to another text.
    - ``data_effective_<field>``: effective number of values of a field of the training records (a language, a
      register); ``detail["groups"]`` has each value's documents and distinct-n apart.

    Errors: over documents for means of one figure per document (``self_bleu``: given the other texts), else the
    jackknife's, leaving out documents. Variety is no quality: random letters have much of it.
    """

    aspect = "diversity"

    def __init__(self, options: DiversityOptions | None = None) -> None:
        self.options = options or DiversityOptions()

    def evaluate_data(self, context: EvaluationContext) -> list[Measurement]:
        texts = training_texts(context, "diversity")
        return [*self._measure(texts, "data_", "training data"), *self._fields(context)]

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        if context.labels:
            raise SignalError("diversity lets the model write, but this one tells classes apart")
        options = self.options
        first: dict[str, Prompt] = {}
        for prompt in held_out_prompts(context, options.prefix_tokens, options.texts):
            first.setdefault(prompt.document, prompt)
        prompts = list(first.values())[: options.texts]
        written = drawn(
            context,
            [(prompt.key, prompt.ids) for prompt in prompts],
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            seed=options.seed,
            batch=16,
        )
        return self._measure(dict(zip((p.document for p in prompts), written, strict=True)), "output_", "outputs")

    def _measure(self, given: Mapping[str, str], prefix: str, of: str) -> list[Measurement]:
        options = self.options
        split = {name: words(text)[: options.words_per_text] for name, text in list(given.items())[: options.texts]}
        if len(split) < 2:
            raise SignalError(f"diversity compares texts with each other, but the {of} are {len(split)} document(s)")
        texts = {name: " ".join(found) for name, found in split.items()}
        vectors = vectors_of(list(texts.values()), options.encoder)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, 1.0)
        found = {}
        for n in options.n:
            value, left_out = measures.distinct({name: measures.ngrams(w, n) for name, w in split.items()})
            found[f"distinct_{n}"] = (value, jackknife_sums(value, left_out))
        found["self_bleu"] = _mean(measures.self_bleu(split))
        found["compression_ratio"] = _left_out_each(texts, lambda kept: measures.compression_ratio(
            [texts[name] for name in kept]
        ))  # fmt: skip
        place = {name: index for index, name in enumerate(texts)}
        found["vendi_score"] = _left_out_each(texts, lambda kept: measures.vendi_score(
            cosines[np.ix_([place[name] for name in kept], [place[name] for name in kept])]
        ))  # fmt: skip
        nearest = (cosines - 2 * np.eye(len(cosines))).max(axis=1)
        found["neighbour_distance"] = _mean(dict(zip(texts, (1 - nearest).tolist(), strict=True)))
        return [
            Measurement(
                prefix + metric, value, "", len(texts), metric not in ("self_bleu", "compression_ratio"), sums, {},
                label=f"{_label(metric)} of {of}",
            )
            for metric, (value, sums) in found.items()
            if np.isfinite(value)
        ]  # fmt: skip

    def _fields(self, context: EvaluationContext) -> list[Measurement]:
        if not self.options.fields:
            return []
        if context.records is None:
            raise SignalError("diversity reads fields of the training records, but this evaluation was not given them")
        records = list(context.records("train"))
        result = []
        for field in self.options.fields:
            values = {document: str(record.get(field) or UNLABELLED) for document, record in records}
            counts = Counter(values.values())
            if set(counts) == {UNLABELLED}:
                raise SignalError(
                    f"diversity: no training record has the field {field!r}: keep it (`fields` of the source)"
                )
            value = measures.effective_number(list(counts.values()))
            without = {group: measures.effective_number(list((counts - Counter([group])).values())) for group in counts}
            sums = jackknife_sums(value, {document: without[group] for document, group in values.items()})
            groups = {group: {"documents": n, **self._group(values, group, records)} for group, n in counts.items()}
            result.append(
                Measurement(
                    f"data_effective_{field}", value, "", len(values), True, sums, {"groups": groups},
                    label=f"Effective number of values of {field} in training data",
                )
            )  # fmt: skip
        return result

    def _group(
        self, values: Mapping[str, str], group: str, records: list[tuple[str, Mapping[str, object]]]
    ) -> dict[str, float | None]:
        texts = [words(str(r.get("text", "")))[: self.options.words_per_text] for d, r in records if values[d] == group]
        found: dict[str, float | None] = {}
        for n in self.options.n:
            value, _ = measures.distinct({str(i): measures.ngrams(text, n) for i, text in enumerate(texts)})
            found[f"distinct_{n}"] = value if np.isfinite(value) else None
        return found


Figure = tuple[float, dict[str, tuple[float, float]]]


def _mean(values: Mapping[str, float]) -> Figure:
    return sum(values.values()) / len(values), {name: (value, 1.0) for name, value in values.items()}


def _left_out_each(texts: Mapping[str, str], measure: Callable[[list[str]], float]) -> Figure:
    names = list(texts)
    value = measure(names)
    return value, jackknife_sums(value, {one: measure([n for n in names if n != one]) for one in names})


def _label(metric: str) -> str:
    """
    >>> _label("distinct_2"), _label("self_bleu"), _label("vendi_score")
    ('Distinct-2', 'Self-BLEU', 'Vendi score')
    """
    if metric.startswith("distinct_"):
        return f"Distinct-{metric.removeprefix('distinct_')}"
    return "Self-BLEU" if metric == "self_bleu" else metric.replace("_", " ").capitalize()
