"""The evaluator own-text against enumeration, and where it must refuse."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.engine.data import TokenDataset
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext
from distill_core.types import IGNORE, TokenBatch
from distill_evaluation.own_text import OwnText, continued
from distill_evaluation.own_text_options import OwnTextOptions
from tests.conftest import make_tiny_llama

VOCABULARY = 5


def batch_of(prompts: list[list[int]], labels: list[list[int]] | None = None) -> TokenBatch:
    ids = torch.tensor(prompts)
    keys = tuple(index.to_bytes(16, "big") for index in range(len(prompts)))
    documents = tuple(f"document-{index % 3}" for index in range(len(prompts)))
    return TokenBatch(ids, torch.ones_like(ids), ids if labels is None else torch.tensor(labels), keys, documents)


def context(model: Any, teacher: Any, batches: list[TokenBatch], **options: Any) -> EvaluationContext:
    class Tokens:
        eos_token_id = options.pop("end", None)

        def __len__(self) -> int:
            return VOCABULARY

    given: Any = {"teacher_rows": True} | options
    return EvaluationContext("student", model, Tokens(), lambda: batches, SimpleNamespace(model=teacher), **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    models = [make_tiny_llama(vocab_size=VOCABULARY, seed=seed).eval() for seed in (0, 1)]
    with torch.no_grad():  # far from uniform, or nothing is drawn that tells them apart
        for model in models:
            model.get_output_embeddings().weight.mul_(40.0)
    return models[0], models[1]


def log_probs(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits.double().log_softmax(dim=0)


def test_the_mean_is_that_over_all_continuations(pair: tuple[Any, Any]) -> None:
    """Two tokens after one prompt, enumerated: E_q[KL at the first + KL at the second] / 2; 4,000 draws, 5 errors."""
    student, teacher = pair
    prompt, draws = [1, 2, 3], 4000
    expected = 0.0
    for first, second in itertools.product(range(VOCABULARY), repeat=2):
        q1, q2 = log_probs(student, prompt), log_probs(student, [*prompt, first])
        p1, p2 = log_probs(teacher, prompt), log_probs(teacher, [*prompt, first])
        chance = (q1[first] + q2[second]).exp()
        expected += float(chance * (q1[first] - p1[first] + q2[second] - p2[second])) / 2
    given = context(student, teacher, [batch_of([prompt] * draws)])
    reverse, forward = OwnText(OwnTextOptions(prompts=draws, prefix_tokens=3, max_new_tokens=2)).evaluate(given)
    assert (reverse.metric, forward.metric, reverse.n) == ("own_text_reverse_kl", "own_text_forward_kl", 2 * draws)
    assert expected > 0.05 and reverse.value == pytest.approx(expected, rel=0.05)
    assert reverse.primary and not forward.primary and not reverse.higher_is_better


def test_draws_follow_the_distribution(pair: tuple[Any, Any]) -> None:
    prompt, count = [4, 0], 20_000
    uniforms = (np.arange(count) + 0.5)[:, None] / count  # a grid: the shares are exact up to 1 / count
    written = continued(pair[0], torch.tensor([prompt] * count), uniforms, vocabulary=VOCABULARY)
    share = np.bincount([ids[0] for ids in written], minlength=VOCABULARY) / count
    assert share == pytest.approx(log_probs(pair[0], prompt).exp().numpy(), abs=2e-4)


def test_a_model_equal_to_its_teacher_has_none(pair: tuple[Any, Any]) -> None:
    found = OwnText().evaluate(context(pair[0], pair[0], [batch_of([[1, 2, 3, 4]] * 3)]))
    assert [m.value for m in found] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_the_end_token_is_the_last_that_counts(pair: tuple[Any, Any]) -> None:
    student, teacher = pair
    batches = [batch_of([[1, 2, 3]] * 40)]
    options = OwnTextOptions(prefix_tokens=3, max_new_tokens=6)
    without = continued(student, torch.tensor([[1, 2, 3]] * 2), np.full((2, 6), 0.5), vocabulary=VOCABULARY)
    end = without[0][1]
    expected = without[0][: without[0].index(end) + 1]
    assert continued(student, torch.tensor([[1, 2, 3]]), np.full((1, 6), 0.5), vocabulary=5, end=end) == [expected]
    whole, _ = OwnText(options).evaluate(context(student, teacher, batches))
    ended, _ = OwnText(options).evaluate(context(student, teacher, batches, end=end))
    assert whole.n == 40 * 6 > ended.n >= 40 and ended.detail["tokens_written"] == ended.n


def test_a_prompt_of_its_own_is_kept(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first record masks three tokens, the second is a plain text of which two are the prompt."""
    seen: list[list[list[int]]] = []

    def fake(model: Any, prompts_BP: torch.Tensor, *rest: Any, **options: Any) -> list[list[int]]:
        seen.append(prompts_BP.tolist())
        return [[0]] * len(prompts_BP)

    monkeypatch.setattr("distill_evaluation.own_text.continued", fake)
    ids = [[1, 2, 3, 4, 0], [4, 3, 2, 1, 0]]
    batch = batch_of(ids, [[IGNORE, IGNORE, IGNORE, 4, 0], [4, 3, 2, 1, 0]])
    found, _ = OwnText(OwnTextOptions(prefix_tokens=2)).evaluate(context(*pair, [batch]))
    assert seen == [[[1, 2, 3]], [[4, 3]]] and found.n == 2


def test_every_model_draws_with_the_same_numbers(
    held_out: TokenDataset, models: dict[str, Any], tokenizer: Any
) -> None:
    from distill_core.engine.data import collate

    batches = [collate([held_out[index] for index in range(len(held_out))])]
    teacher: Any = SimpleNamespace(model=models["teacher"].eval())
    student = models["student"].eval()
    one = EvaluationContext("student", student, tokenizer, lambda: batches, teacher, teacher_rows=True)
    first, again = OwnText().evaluate(one)[0], OwnText().evaluate(one)[0]
    other = OwnText(OwnTextOptions(seed=1)).evaluate(one)[0]
    assert first.value == again.value != other.value
    assert set(first.document_sums) == {f"speech-{index}" for index in range(5)}


def test_what_it_refuses(pair: tuple[Any, Any]) -> None:
    good = context(*pair, [batch_of([[1, 2, 3]])])
    assert OwnText().evaluate(replace(good, is_teacher=True)) == []
    with pytest.raises(SignalError, match="full distribution, but no teacher was given"):
        OwnText().evaluate(replace(good, teacher_rows=False))
    with pytest.raises(SignalError, match="tells classes apart"):
        OwnText().evaluate(replace(good, labels=("a", "b")))
    with pytest.raises(DataError, match="no sequences to continue"):
        OwnText().evaluate(replace(good, batches=lambda: []))
    with pytest.raises(SignalError, match=r"do not fit the model's context of \d+ tokens: lower max_new_tokens"):
        OwnText(OwnTextOptions(max_new_tokens=100_000)).evaluate(good)
