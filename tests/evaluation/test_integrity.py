"""Planted cheating is found, honest data is not accused; attacks against sklearn and against leaving documents out."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.statistics import estimate
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext
from distill_evaluation.canaries import Canaries, PlantCanaries, read_canaries, same_shape
from distill_evaluation.contamination import Contamination, ngram_overlap
from distill_evaluation.integrity_options import (
    CanariesOptions,
    ContaminationOptions,
    MembershipInferenceOptions,
    PlantCanariesOptions,
)
from distill_evaluation.membership_inference import (
    MembershipInference,
    auc_by_document,
    lowest_mean,
    threshold_at,
)
from distill_evaluation.text_vectors import hashed_vectors
from tests.conftest import make_tiny_llama
from tests.evaluation.rows import bare_context


def prose(words: int, seed: int) -> str:
    """Made-up words, so that nothing is shared but what a test plants."""
    draw = random.Random(seed)
    return " ".join("".join(draw.choice("aeioulmnrst") for _ in range(draw.randint(3, 8))) for _ in range(words))


def sequences(tokenizer: Any, texts: Iterable[tuple[str, str]]) -> list[TokenSequence]:
    found = []
    for index, (document, text) in enumerate(texts):
        ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        found.append(TokenSequence(ids, ids, document, index.to_bytes(16, "big")))
    return found


def context(tokenizer: Any, held_out: dict[str, str], training: dict[str, str], model: Any = None) -> EvaluationContext:
    batches = [collate(sequences(tokenizer, held_out.items()))]
    given = sequences(tokenizer, training.items())
    return bare_context(model=model, tokenizer=tokenizer, batches=lambda: batches, training=given)


TRAINING = {f"train-{i}": prose(60, i) for i in range(6)}


def test_test_text_inside_the_training_data_is_flagged(tokenizer: Any) -> None:
    stolen = TRAINING["train-2"].split()
    held_out = {
        "clean": prose(50, 100),
        "stolen": " ".join(stolen[5:45]).upper() + "!",  # case and punctuation hide nothing
        "half": " ".join(stolen[:20]) + " " + prose(60, 101),
    }
    found = {m.metric: m for m in Contamination().evaluate_data(context(tokenizer, held_out, TRAINING))}
    overlap = found["ngram_overlap"].document_sums
    assert overlap["clean"] == (0.0, 38.0) and overlap["stolen"] == (28.0, 28.0) and overlap["half"] == (8.0, 68.0)
    assert found["ngram_overlap"].value == pytest.approx(36 / 134) and found["ngram_overlap"].n == 134
    share = found["contaminated_documents"]
    assert share.value == pytest.approx(1 / 3) and share.n == 3
    (flag,) = share.flags
    assert (flag.flag, flag.severity) == ("test-in-training", "error")
    assert flag.evidence["examples"] == [{"held_out": "stolen", "training": "train-2", "share": 1.0}]
    assert "stolen" in flag.reason


def test_honest_data_is_not_accused(tokenizer: Any) -> None:
    held_out = {f"t{i}": prose(40, 200 + i) for i in range(4)}
    for m in Contamination().evaluate_data(context(tokenizer, held_out, TRAINING)):
        assert m.flags == ()
        assert m.value < 0.2 and estimate(m.document_sums).value == pytest.approx(m.value)


def test_a_near_copy_is_flagged_by_its_words(tokenizer: Any) -> None:
    """Every twelfth word changed: no run of thirteen words is left, but the words are."""
    copied = TRAINING["train-4"].split()
    copied[::12] = [prose(1, 300 + i) for i in range(len(copied[::12]))]
    held_out = {"copy": " ".join(copied), "clean": prose(50, 100)}
    options = ContaminationOptions(near_duplicate=0.8)
    found = {m.metric: m for m in Contamination(options).evaluate_data(context(tokenizer, held_out, TRAINING))}
    assert found["ngram_overlap"].value == 0.0 and not found["contaminated_documents"].flags
    (flag,) = found["nearest_training_similarity"].flags
    assert (flag.flag, flag.severity) == ("near-duplicate-of-test", "warning")
    assert flag.evidence["examples"][0]["training"] == "train-4"


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_overlap_is_that_of_counting(n: int) -> None:
    draw = random.Random(0)
    texts = {f"t{i}": " ".join(draw.choice("abc") for _ in range(12)) for i in range(5)}
    training = {f"s{i}": " ".join(draw.choice("abc") for _ in range(30)) for i in range(2)}
    joined = [f" {text} " for text in training.values()]
    found = ngram_overlap(texts, training, n)
    for document, text in texts.items():
        parts, size = text.split(), min(n, 12)
        runs = [" ".join(parts[start : start + size]) for start in range(len(parts) - size + 1)]
        assert found[document][:2] == (sum(any(f" {r} " in t for t in joined) for r in runs), len(runs))


def test_overlap_at_the_edges() -> None:
    assert ngram_overlap({"empty": "", "short": "one two"}, {"s": "zero one two three"}, 13) == {
        "empty": (0, 0, ""),
        "short": (1, 1, "s"),
    }
    assert ngram_overlap({"t": "a b"}, {}, 2) == {"t": (0, 1, "")}
    assert hashed_vectors(["", "!!"]).tolist() == [[0.0] * 4096] * 2


def test_without_training_data_it_says_so(tokenizer: Any) -> None:
    given = bare_context(tokenizer=tokenizer)
    with pytest.raises(SignalError, match="contamination reads the training data"):
        Contamination().evaluate_data(given)
    with pytest.raises(SignalError, match="reads texts, but this run's inputs are none"):
        Contamination().evaluate_data(bare_context())


def test_auc_is_that_of_sklearn_and_its_jackknife_leaves_documents_out() -> None:
    rng = np.random.default_rng(0)
    inside = [(f"m{i % 9}", float(v)) for i, v in enumerate(rng.integers(0, 6, size=40))]  # with ties
    outside = [(f"{'m' if i % 7 == 0 else 'n'}{i % 5}", float(v)) for i, v in enumerate(rng.integers(-2, 5, size=30))]
    value, left_out = auc_by_document(inside, outside)

    def sklearn_auc(without: str | None) -> float:
        kept = [[v for d, v in side if d != without] for side in (inside, outside)]
        return float(roc_auc_score([1] * len(kept[0]) + [0] * len(kept[1]), kept[0] + kept[1]))

    assert value == pytest.approx(sklearn_auc(None), rel=1e-12)
    for document, found in left_out.items():
        assert found == pytest.approx(sklearn_auc(document), rel=1e-12), document


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.35])
def test_true_positives_are_those_of_the_roc_curve(rate: float) -> None:
    rng = np.random.default_rng(1)
    inside, outside = rng.normal(1, 1, size=200), rng.normal(0, 1, size=250)
    fpr, tpr, _ = roc_curve([1] * 200 + [0] * 250, np.concatenate([inside, outside]), drop_intermediate=False)
    expected = tpr[fpr <= rate].max()
    threshold = threshold_at(outside, rate)
    assert (inside > threshold).mean() == pytest.approx(expected) and (outside > threshold).mean() <= rate


def test_attacks_at_the_edges() -> None:
    assert auc_by_document([("a", 1.0)], [("b", 1.0)])[0] == 0.5
    assert auc_by_document([("a", 1.0)], [("b", 0.0)]) == (1.0, {"a": 1.0, "b": 1.0})
    assert threshold_at(np.array([2.0]), 0.01) == 2.0
    assert lowest_mean(np.array([-3.0]), 0.2) == -3.0
    values = np.random.default_rng(0).normal(size=50)
    assert lowest_mean(values, 0.2) == pytest.approx(np.sort(values)[:10].mean())


@pytest.fixture(scope="module")
def memory(tokenizer: Any) -> tuple[Any, Any, dict[str, str], dict[str, str]]:
    """A model, and the same one after it learned twelve texts by heart; twelve more of the same kind."""
    members, others = ({f"{side}{i}": prose(14, 1000 * at + i) for i in range(12)} for at, side in ((1, "m"), (2, "n")))
    fresh, learned = (make_tiny_llama(vocab_size=len(tokenizer), seed=0) for _ in range(2))
    batch = collate(sequences(tokenizer, members.items()))
    optimizer = torch.optim.AdamW(learned.parameters(), lr=1e-2)
    labels = batch.labels_BT
    for _ in range(60):
        optimizer.zero_grad()
        learned(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, labels=labels).loss.backward()
        optimizer.step()
    return fresh.eval(), learned.eval(), members, others


def test_members_are_told_from_others_only_where_they_were_learned(memory: Any, tokenizer: Any) -> None:
    fresh, learned, members, others = memory
    for model, low, high in ((fresh, 0.15, 0.85), (learned, 0.95, 1.0)):
        given = context(tokenizer, others, members, model)
        found = {m.metric: m for m in MembershipInference().evaluate(given)}
        for attack in ("loss", "min_k"):
            auc, hits = found[f"membership_auc_{attack}"], found[f"membership_tpr_{attack}"]
            assert low <= auc.value <= high and auc.n == 24 and hits.n == 12
            assert estimate(auc.document_sums).value == pytest.approx(auc.value)
            assert set(auc.document_sums) == {*members, *others} and set(hits.document_sums) == set(members)
            assert hits.detail["false_positive_rate"] <= 0.01
        assert (found["membership_tpr_loss"].value > 0.9) == (model is learned)


def test_the_loss_attack_scores_by_the_models_own_loss(memory: Any, tokenizer: Any) -> None:
    fresh, _, members, others = memory
    means = []
    for texts in (members, others):
        for one in sequences(tokenizer, texts.items()):
            ids = torch.from_numpy(one.input_ids.astype(np.int64))[None]
            with torch.no_grad():
                means.append(-float(fresh(input_ids=ids, labels=ids).loss))
    found = MembershipInference().evaluate(context(tokenizer, others, members, fresh))[0]
    assert found.value == pytest.approx(roc_auc_score([1] * 12 + [0] * 12, means), abs=1e-9)


def test_only_so_many_members_are_asked_about(memory: Any, tokenizer: Any) -> None:
    fresh, _, members, others = memory
    given = context(tokenizer, others, members, fresh)
    options = MembershipInferenceOptions(sequences=5)
    first, again = (MembershipInference(options).evaluate(given) for _ in range(2))
    assert first[1].n == 5 and first == again
    with pytest.raises(SignalError, match="membership-inference reads the training data"):
        MembershipInference().evaluate(bare_context(tokenizer=tokenizer, model=fresh))


def write_canaries(path: Path, *secrets: str) -> str:
    lines = [{"canary": f"the code of door {i} is {{}}", "secret": secret} for i, secret in enumerate(secrets)]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n\n", encoding="utf-8")
    return str(path)


def test_a_memorised_canary_is_flagged_and_a_fresh_one_is_not(tokenizer: Any, tmp_path: Path) -> None:
    path = write_canaries(tmp_path / "canaries.jsonl", "48213", "qxk-77")
    planted = list(PlantCanaries(PlantCanariesOptions(path=path, repeats=3)).transform({"text": "x", "document": "d"}))
    assert [r["document"] for r in planted] == ["canary-1"] * 3 + ["canary-2"] * 3 + ["d"]
    fresh, learned = (make_tiny_llama(vocab_size=len(tokenizer), seed=3) for _ in range(2))
    ids = torch.tensor([tokenizer(planted[0]["text"], add_special_tokens=False)["input_ids"]])
    optimizer = torch.optim.AdamW(learned.parameters(), lr=1e-2)
    for _ in range(40):  # the first canary alone is learned
        optimizer.zero_grad()
        learned(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    options = CanariesOptions(path=path, alternatives=255, significance=0.05)
    (honest,) = Canaries(options).evaluate(bare_context(model=fresh.eval(), tokenizer=tokenizer))
    (caught,) = Canaries(options).evaluate(bare_context(model=learned.eval(), tokenizer=tokenizer))
    assert honest.flags == () and honest.detail["most"] == 8.0
    (flag,) = caught.flags
    assert (flag.flag, flag.severity) == ("memorised-canary", "error") and flag.evidence["canaries"] == ["canary-1"]
    assert caught.document_sums["canary-1"] == (8.0, 1.0) and caught.detail["ranks"]["canary-1"] == 1
    for name, (exposure, _) in honest.document_sums.items():
        assert exposure == pytest.approx(8 - math.log2(honest.detail["ranks"][name]))


def test_exposure_without_memory_is_what_chance_gives(tokenizer: Any, tmp_path: Path) -> None:
    """Ranks of 40 secrets drawn like their alternatives: their mean exposure is 1 / ln 2 with error 1.44 / sqrt(40)."""
    draw = random.Random(5)
    secrets = [same_shape("00000", draw) for _ in range(40)]
    path = write_canaries(tmp_path / "canaries.jsonl", *secrets)
    model = make_tiny_llama(vocab_size=len(tokenizer), seed=3).eval()
    given = bare_context(model=model, tokenizer=tokenizer)
    (found,) = Canaries(CanariesOptions(path=path, alternatives=63, batch_sequences=64)).evaluate(given)
    assert found.n == 40 and found.value == pytest.approx(1 / math.log(2), abs=3 * 1.44 / math.sqrt(40))


def test_shapes_and_files_of_canaries(tmp_path: Path, tokenizer: Any) -> None:
    other = same_shape("Ab-1é", random.Random(0))
    assert other[0].isupper() and other[1].islower() and other[2] == "-" and other[3].isdigit()
    for text, message in (
        ("", "holds none"),
        ("no json", "line 1: no JSON"),
        ('{"canary": "no place", "secret": "1"}', r"a text with one \{\}"),
        ('{"canary": "{}", "secret": ""}', "`secret`"),
        ("[1]", "needs `canary`"),
    ):
        file = tmp_path / "bad.jsonl"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_canaries(str(file))
    with pytest.raises(DataError, match="does not exist"):
        read_canaries(str(tmp_path / "none.jsonl"))
    path = write_canaries(tmp_path / "short.jsonl", "7")
    with pytest.raises(DataError, match="fewer than 20 alternatives"):
        Canaries(CanariesOptions(path=path, alternatives=20)).evaluate(bare_context(tokenizer=tokenizer))
    model: Any = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=3))
    with pytest.raises(SignalError, match="the model's context is 3"):
        Canaries(CanariesOptions(path=path, alternatives=5)).evaluate(bare_context(tokenizer=tokenizer, model=model))
