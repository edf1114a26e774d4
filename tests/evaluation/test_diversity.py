"""Measures of variety against sacreBLEU, zlib, eigenvalues by hand, and texts whose variety is known."""

from __future__ import annotations

import math
import random
import zlib
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from distill_core.engine.data import collate
from distill_core.engine.statistics import estimate
from distill_core.errors import SignalError
from distill_evaluation import diversity_measures as measures
from distill_evaluation.diversity import Diversity
from distill_evaluation.diversity_options import DiversityOptions
from distill_evaluation.text_vectors import hashed_vectors
from tests.conftest import make_tiny_llama
from tests.evaluation.rows import bare_context
from tests.evaluation.test_integrity import prose, sequences


def texts(count: int, vocabulary: str, length: int, seed: int) -> dict[str, list[str]]:
    draw = random.Random(seed)
    return {f"d{i}": [draw.choice(vocabulary) for _ in range(draw.randint(1, length))] for i in range(count)}


@pytest.mark.parametrize(("vocabulary", "length"), [("abc", 9), ("abcdefghij", 25), ("ab", 3)])
def test_self_bleu_is_that_of_sacrebleu(vocabulary: str, length: int) -> None:
    given = texts(8, vocabulary, length, 3)
    metric = BLEU(effective_order=True, tokenize="none", smooth_method="exp", force=True)
    for name, value in measures.self_bleu(given).items():
        others = [" ".join(words) for key, words in given.items() if key != name]
        expected = metric.sentence_score(" ".join(given[name]), others).score / 100
        assert value == pytest.approx(expected, abs=1e-9), name


def test_self_bleu_at_the_edges() -> None:
    assert measures.self_bleu({"a": [], "b": ["x"]}) == {"a": 0.0, "b": 0.0}
    assert measures.self_bleu({"a": ["x"]}) == {"a": 0.0}
    assert measures.self_bleu({"a": ["x"], "b": ["x"]}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_is_that_of_counting_with_and_without_each_document(n: int) -> None:
    given = texts(6, "abcd", 12, 0)

    def counted(kept: list[str]) -> float:
        grams = [tuple(given[d][i : i + n]) for d in kept for i in range(len(given[d]) - n + 1)]
        return len(set(grams)) / len(grams)

    value, left_out = measures.distinct({d: measures.ngrams(w, n) for d, w in given.items()})
    assert value == pytest.approx(counted(list(given)))
    for document, found in left_out.items():
        assert found == pytest.approx(counted([d for d in given if d != document]))


def test_distinct_of_nothing() -> None:
    assert math.isnan(measures.distinct({"a": measures.ngrams([], 1)})[0])
    assert measures.distinct({"a": measures.ngrams(["x"], 1)}) == (1.0, {"a": 1.0})


def test_vendi_score_by_hand_and_by_the_singular_values() -> None:
    """Two groups of copies: two effective texts, more of one group fewer."""
    blocks = np.kron(np.eye(2), np.ones((3, 3)))
    assert measures.vendi_score(blocks) == pytest.approx(2.0)
    uneven = np.zeros((4, 4))
    uneven[:3, :3] = 1
    uneven[3, 3] = 1
    assert measures.vendi_score(uneven) == pytest.approx(measures.effective_number([3, 1]))
    vectors = hashed_vectors([prose(20, seed) for seed in range(7)] + [prose(20, 0)])
    singular = np.linalg.svd(vectors, compute_uv=False) ** 2 / 8
    singular = singular[singular > 1e-12]
    assert measures.vendi_score(vectors @ vectors.T) == pytest.approx(np.exp(-(singular * np.log(singular)).sum()))
    assert measures.vendi_score(np.ones((1, 1))) == pytest.approx(1.0)
    assert math.isnan(measures.vendi_score(np.zeros((0, 0))))


def test_compression_and_effective_numbers() -> None:
    given = ["one two", "日本語 🙂"]
    whole = "\n".join(given).encode()
    assert measures.compression_ratio(given) == len(whole) / len(zlib.compress(whole, 9))
    assert math.isnan(measures.compression_ratio([""])) and math.isnan(measures.effective_number([]))
    assert measures.effective_number([1, 1, 1, 1]) == pytest.approx(4.0)
    assert measures.effective_number([2, 2, 0]) == pytest.approx(2.0)


def data_context(tokenizer: Any, given: dict[str, str], **options: Any) -> Any:
    return bare_context(tokenizer=tokenizer, training=sequences(tokenizer, given.items()), **options)


def test_varied_data_is_told_from_copies(tokenizer: Any) -> None:
    varied = {f"d{i}": prose(40, i) for i in range(12)}
    copies = {f"d{i}": prose(40, i % 3) for i in range(12)}
    one, other = (
        {m.metric: m for m in Diversity().evaluate_data(data_context(tokenizer, t))} for t in (varied, copies)
    )
    assert one.keys() == other.keys() and len(one) == 7
    for metric, m in one.items():
        better = m.value > other[metric].value
        assert better == m.higher_is_better, metric
        assert estimate(m.document_sums).value == pytest.approx(m.value, rel=1e-9) and m.n == 12
    assert other["data_vendi_score"].value == pytest.approx(3.0, abs=0.05)
    assert other["data_self_bleu"].value == pytest.approx(1.0)
    assert other["data_neighbour_distance"].value == pytest.approx(0.0, abs=1e-9)


def test_the_jackknife_of_the_vendi_score_leaves_documents_out(tokenizer: Any) -> None:
    given = {f"d{i}": prose(15, i % 5) + " " + prose(10, 50 + i) for i in range(8)}
    found = {m.metric: m for m in Diversity().evaluate_data(data_context(tokenizer, given))}["data_vendi_score"]
    vectors = hashed_vectors(list(given.values()))
    left = [measures.vendi_score(np.delete(vectors, i, 0) @ np.delete(vectors, i, 0).T) for i in range(8)]
    expected = math.sqrt(7 / 8 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert estimate(found.document_sums).standard_error == pytest.approx(expected, rel=1e-6)


def test_languages_and_registers(tokenizer: Any) -> None:
    given = {f"d{i}": prose(30, i) for i in range(6)}
    labels = ["de", "de", "fr", "fr", "", "fr"]
    records = [(d, {"text": t, "language": labels[i] or None}) for i, (d, t) in enumerate(given.items())]
    options = DiversityOptions(fields=["language"])
    context = data_context(tokenizer, given, records=lambda split: records if split == "train" else [])
    found = {m.metric: m for m in Diversity(options).evaluate_data(context)}["data_effective_language"]
    assert found.value == pytest.approx(math.exp(-sum(s * math.log(s) for s in (1 / 3, 1 / 2, 1 / 6))))
    assert found.detail["groups"]["fr"]["documents"] == 3 and 0 < found.detail["groups"]["fr"]["distinct_1"] <= 1
    assert set(found.detail["groups"]) == {"de", "fr", "(unlabelled)"}
    left = [measures.effective_number(c) for c in ([1, 3, 1], [1, 3, 1], [2, 2, 1], [2, 2, 1], [2, 3], [2, 2, 1])]
    expected = math.sqrt(5 / 6 * ((np.array(left) - np.mean(left)) ** 2).sum())
    assert estimate(found.document_sums).standard_error == pytest.approx(expected)
    with pytest.raises(SignalError, match="no training record has the field 'register'"):
        Diversity(DiversityOptions(fields=["register"])).evaluate_data(context)


def test_outputs_are_the_same_for_the_same_seed_and_need_two_documents(tokenizer: Any) -> None:
    model = make_tiny_llama(vocab_size=len(tokenizer), seed=0).eval()
    given = {f"d{i}": prose(12, i) for i in range(4)}
    batches = [collate(sequences(tokenizer, given.items()))]
    context = bare_context(model=model, tokenizer=tokenizer, batches=lambda: batches)
    first, again = (Diversity(DiversityOptions(max_new_tokens=12)).evaluate(context) for _ in range(2))
    assert first == again and all(m.metric.startswith("output_") for m in first) and first[0].n == 4
    other = Diversity(DiversityOptions(max_new_tokens=12, seed=1)).evaluate(context)
    assert [m.value for m in other] != [m.value for m in first]
    single = [collate(sequences(tokenizer, [("d", prose(12, 0))]))]
    with pytest.raises(SignalError, match=r"the outputs are 1 document"):
        Diversity().evaluate(bare_context(model=model, tokenizer=tokenizer, batches=lambda: single))
    with pytest.raises(SignalError, match="tells classes apart"):
        Diversity().evaluate(bare_context(labels=("a",)))
