"""The ``hf`` teacher writes: against a plain loop without padding or cache, whatever the batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from distill_core.completions import Completion, GenerationParameters, GenerationRequest, request_seed, uniform
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import Generator
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama

PROMPTS = (
    "The state",
    "No nation has ever spent its way to peace; none",
    "In 1837 the treasury held",
    "G",
    "日本語 and",
)
REQUESTS = [GenerationRequest(f"r{i}", prompt=prompt) for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def teacher(tiny_tokenizer: Any) -> HFTeacher:
    return HFTeacher.from_model(make_tiny_llama(vocab_size=len(tiny_tokenizer) + 13, seed=5), tiny_tokenizer)


def with_batch(teacher: HFTeacher, size: int) -> HFTeacher:
    other = HFTeacher.from_model(teacher.model, teacher.tokenizer())
    other.options = other.options.model_copy(update={"generation_batch": size})
    return other


@torch.no_grad()
def plain_loop(teacher: HFTeacher, request: GenerationRequest, parameters: GenerationParameters) -> list[int]:
    """One sequence, no cache, float64 probabilities, the textbook's nucleus."""
    ids = list(teacher.tokenizer()(request.prompt)["input_ids"])
    start, seed = len(ids), request_seed(parameters.seed, request.id)
    for step in range(parameters.max_new_tokens):
        logits_V = teacher.model(torch.tensor([ids])).logits[0, -1, : teacher.valid_vocab].double()
        if parameters.temperature == 0:
            chosen = int(logits_V.argmax())
        else:
            probability = (logits_V / parameters.temperature).softmax(0).tolist()
            kept, mass = set(), 0.0
            for index in sorted(range(len(probability)), key=lambda i: -probability[i]):
                kept.add(index)
                mass += probability[index]
                if mass >= parameters.top_p:
                    break
            number, below = uniform(seed, step) * mass, 0.0
            for index in sorted(kept):
                below += probability[index]
                chosen = index
                if number < below:
                    break
        if chosen == teacher.tokenizer().eos_token_id:
            break
        ids.append(chosen)
    return ids[start:]


@pytest.mark.parametrize(
    "parameters",
    [
        GenerationParameters(max_new_tokens=12, top_logprobs=3),
        GenerationParameters(max_new_tokens=40, temperature=1.0, top_logprobs=2, seed=3),
        GenerationParameters(max_new_tokens=40, temperature=0.7, top_p=0.8, top_logprobs=2, seed=4),
    ],
    ids=["greedy", "sampled", "nucleus"],
)
def test_written_as_a_plain_loop_writes_whatever_the_batch(
    teacher: HFTeacher, parameters: GenerationParameters
) -> None:
    expected = [plain_loop(teacher, request, parameters) for request in REQUESTS]
    if parameters.temperature:
        assert {len(ids) for ids in expected} > {40}, "no answer ended early: rows leaving the batch are not tested"
    for size in (1, 2, 5):
        found = list(with_batch(teacher, size).generate(REQUESTS, parameters))
        assert [answer.id for answer in found] == [request.id for request in REQUESTS]
        assert [[token.id for token in answer.tokens or ()] for answer in found] == expected
        for answer, ids in zip(found, expected, strict=True):
            assert answer.finish_reason == ("length" if len(ids) == parameters.max_new_tokens else "stop")
            assert answer.completion_tokens == len(ids)


def test_log_probabilities_are_the_models_own(teacher: HFTeacher) -> None:
    parameters = GenerationParameters(max_new_tokens=6, temperature=0.5, top_p=0.3, top_logprobs=4)
    for answer in teacher.generate(REQUESTS[:2], parameters):
        prompt = teacher.tokenizer()(PROMPTS[int(answer.id[1])])["input_ids"]
        assert answer.tokens
        ids = [token.id for token in answer.tokens]
        with torch.no_grad():
            logits_TV = teacher.model(torch.tensor([prompt + ids])).logits[0, :, : teacher.valid_vocab].double()
        for step, token in enumerate(answer.tokens):
            logp_V = logits_TV[len(prompt) + step - 1].log_softmax(0)
            assert token.logprob == pytest.approx(float(logp_V[token.id]), abs=1e-4)
            best = logp_V.topk(4)
            assert [one.id for one in token.top] == best.indices.tolist()
            assert [one.logprob for one in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)
            assert all(math.isfinite(one.logprob) for one in token.top)


def test_samples_differ_by_id_and_seed(teacher: HFTeacher) -> None:
    same = [GenerationRequest(f"q#{i}", prompt="The state") for i in range(6)]
    parameters = GenerationParameters(max_new_tokens=10, temperature=1.0)
    texts = [answer.text for answer in teacher.generate(same, parameters)]
    assert len(set(texts)) >= 5
    other = GenerationParameters(max_new_tokens=10, temperature=1.0, seed=1)
    assert [answer.text for answer in teacher.generate(same, other)] != texts


def test_sampled_frequencies_are_the_models_probabilities(teacher: HFTeacher) -> None:
    """1,600 first tokens at temperature 1 against the exact distribution: total variation below its expectation."""
    n = 1600
    requests = [GenerationRequest(f"s{i}", prompt="No nation") for i in range(n)]
    parameters = GenerationParameters(max_new_tokens=1, temperature=1.0, top_logprobs=1)
    counts = torch.zeros(teacher.valid_vocab, dtype=torch.float64)
    for answer in with_batch(teacher, 200).generate(requests, parameters):
        assert answer.tokens is not None
        counts[answer.tokens[0].id if answer.tokens else teacher.tokenizer().eos_token_id] += 1
    ids = teacher.tokenizer()("No nation")["input_ids"]
    with torch.no_grad():
        p_V = teacher.model(torch.tensor([ids])).logits[0, -1, : teacher.valid_vocab].double().softmax(0)
    expected = 0.5 * (2 / math.pi * p_V * (1 - p_V) / n).sqrt().sum()  # E|binomial - mean|, summed
    assert float(0.5 * (counts / n - p_V).abs().sum()) < 1.3 * float(expected)


def test_stop_texts_end_an_answer_and_are_cut(teacher: HFTeacher) -> None:
    parameters = GenerationParameters(max_new_tokens=20)
    whole = next(iter(teacher.generate(REQUESTS[:1], parameters))).text
    stop = whole[5:8]
    cut = next(
        iter(teacher.generate(REQUESTS[:1], GenerationParameters(max_new_tokens=20, stop=(stop, "never written"))))
    )
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_text_goes_on_where_the_prompt_ends(teacher: HFTeacher) -> None:
    answer: Completion = next(iter(teacher.generate(REQUESTS[:1], GenerationParameters(8, top_logprobs=1))))
    prompt = teacher.tokenizer()(PROMPTS[0])["input_ids"]
    written = [token.id for token in answer.tokens or ()]
    assert PROMPTS[0] + answer.text == teacher.tokenizer().decode(prompt + written, skip_special_tokens=True)


def test_tally_counts_tokens_and_time(teacher: HFTeacher) -> None:
    counting = with_batch(teacher, 2)
    answers = list(counting.generate(REQUESTS, GenerationParameters(max_new_tokens=5)))
    assert counting.tally.requests == 5
    assert counting.tally.completion_tokens == sum(answer.completion_tokens for answer in answers) > 0
    assert counting.tally.prompt_tokens == sum(answer.prompt_tokens for answer in answers) > 0
    assert counting.tally.tokens_per_s > 0
    assert isinstance(counting, Generator)


def test_wrong_use(teacher: HFTeacher) -> None:
    parameters = GenerationParameters(max_new_tokens=5)
    with pytest.raises(DataError, match=r"two requests have the id 'a'"):
        list(teacher.generate([GenerationRequest("a", prompt="x"), GenerationRequest("a", prompt="y")], parameters))
    with pytest.raises(SignalError, match=r"chat turns, but the tokenizer of the teacher .* has no chat template"):
        list(teacher.generate([GenerationRequest("c", messages=({"role": "user", "content": "x"},))], parameters))
    with pytest.raises(SignalError, match="no tokens"):
        list(teacher.generate([GenerationRequest("e", prompt="")], parameters))
    with pytest.raises(SignalError, match="leaves no room in the context"):
        list(teacher.generate([GenerationRequest("l", prompt="x" * 400)], parameters))
    with pytest.raises(ValueError, match="either prompt"):
        GenerationRequest("n")
    with pytest.raises(ValueError, match="temperature is -1"):
        GenerationParameters(temperature=-1)


def test_an_answer_ends_at_the_context(teacher: HFTeacher) -> None:
    prompt = "x" * 250
    (answer,) = teacher.generate([GenerationRequest("l", prompt=prompt)], GenerationParameters(max_new_tokens=50))
    assert answer.prompt_tokens + answer.completion_tokens <= 256
    assert answer.finish_reason == "length"
