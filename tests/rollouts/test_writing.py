"""Sampling with a cache against full forward passes, alone against in company, cuts, ends, mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_objectives.rollouts.reading import read
from distill_objectives.rollouts.writing import Draft, Sampling, Voice, drawn, mixed, write
from tests.conftest import make_tiny_llama

PROMPTS = ([5, 9, 11, 3, 40, 41, 7], [12], [30, 31, 32], [8, 8], [60, 2, 61, 4, 5])
LENGTH = 24
VOCABULARY = 97


def model(seed: int, **changes: Any) -> Any:
    return make_tiny_llama(seed=seed, **changes).double()


def drafts(prompts: Sequence[Sequence[int]] = PROMPTS, length: int = LENGTH) -> list[Draft]:
    return [Draft(p, np.random.default_rng([7, i]).random(length)) for i, p in enumerate(prompts)]


def one_by_one(
    voices: Sequence[Voice], draft: Draft, sampling: Sampling, end: int | None, valid: int
) -> tuple[list[int], list[float], list[list[float]]]:
    """Whole forward passes without cache or padding, probabilities in numpy."""
    ids: list[int] = []
    behaviour: list[float] = []
    own: list[list[float]] = [[] for _ in voices]
    while len(ids) < len(draft.uniforms) and (not ids or ids[-1] != end):
        with torch.no_grad():
            context = torch.tensor([[*draft.prompt, *ids]])
            logits = [voice.model(input_ids=context).logits[0, -1].numpy() for voice in voices]
        p = np.zeros(valid)
        for voice, z in zip(voices, logits, strict=True):
            e = np.exp((z[:valid] - z[:valid].max()) / sampling.temperature)
            p += voice.share * e / e.sum()
        order = np.argsort(-p, kind="stable")
        if sampling.top_k is not None:
            p[order[sampling.top_k :]] = 0
        if sampling.top_p < 1:
            before = np.cumsum(p[order]) - p[order]
            p[order[before >= sampling.top_p * p.sum()]] = 0
        p /= p.sum()
        chosen = int(np.searchsorted(np.cumsum(p), draft.uniforms[len(ids)], side="right"))
        ids.append(chosen)
        behaviour.append(float(np.log(p[chosen])))
        for noted, z in zip(own, logits, strict=True):
            noted.append(float(z[chosen] - z.max() - np.log(np.exp(z - z.max()).sum())))
    return ids, behaviour, own


SETTINGS = {
    "plain": (Sampling(), (1.0,), None),
    "hot": (Sampling(temperature=1.7), (1.0,), None),
    "top-k": (Sampling(temperature=0.8, top_k=5), (1.0,), None),
    "top-p": (Sampling(top_p=0.6), (1.0,), 3),
    "both": (Sampling(temperature=1.3, top_k=20, top_p=0.7), (1.0,), None),
    "mixed": (Sampling(), (0.8, 0.2), 5),
    "mixed-top-p": (Sampling(temperature=0.9, top_p=0.8), (0.5, 0.5), None),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_a_batch_writes_what_each_prompt_writes_alone(name: str, batch_size: int) -> None:
    sampling, shares, end = SETTINGS[name]
    models = [model(1), model(7, hidden_size=48)]
    voices = [Voice(one, share) for one, share in zip(models, shares, strict=False)]
    made = drafts()
    write(voices, made, sampling=sampling, valid_vocab=VOCABULARY, end=end, batch_size=batch_size)
    for draft in made:
        ids, behaviour, own = one_by_one(voices, draft, sampling, end, VOCABULARY)
        assert draft.ids == ids
        np.testing.assert_allclose(draft.behaviour_logp, behaviour, rtol=0, atol=1e-9)
        np.testing.assert_allclose(draft.own_logp, own, rtol=0, atol=1e-9)


def test_responses_end_at_the_end_token_and_the_batch_shrinks() -> None:
    made = drafts(PROMPTS * 4, 40)
    write([Voice(model(1))], made, sampling=Sampling(temperature=4.0), valid_vocab=VOCABULARY, end=5)
    lengths = [len(draft.ids) for draft in made]
    assert min(lengths) < 20 and max(lengths) == 40
    for draft in made:
        assert 5 not in draft.ids[:-1]
        assert draft.ids[-1] == 5 or len(draft.ids) == 40
        assert len(draft.ids) == len(draft.behaviour_logp) == len(draft.own_logp[0])


def test_padding_rows_of_the_head_are_never_written() -> None:
    made = drafts()
    write([Voice(model(1))], made, sampling=Sampling(temperature=50.0), valid_vocab=9)
    assert {index for draft in made for index in draft.ids} <= set(range(9))
    assert all(len(draft.ids) == LENGTH for draft in made)


def test_frequencies_are_those_of_the_distribution() -> None:
    logits_BV = torch.tensor([[1.0, -0.5, 0.3, 0.0, 2.0]], dtype=torch.float64)
    p_V = mixed([Voice(None)], [logits_BV], Sampling(top_p=0.95), 5)[0]
    n = 200_000
    uniforms = torch.from_numpy(np.random.default_rng(0).random(n))
    found_V = drawn(p_V.expand(n, 5), uniforms).bincount(minlength=5) / n
    error_V = (p_V * (1 - p_V) / n).sqrt()
    assert bool(((found_V - p_V).abs() <= 4 * error_V).all())


def test_a_number_of_almost_one_draws_no_impossible_token() -> None:
    p_BV = torch.tensor([[0.5, 0.5, 0.0, 0.0]], dtype=torch.float64)
    assert drawn(p_BV, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [1]


def test_no_drafts() -> None:
    write([Voice(model(1))], [], sampling=Sampling(), valid_vocab=VOCABULARY)


@pytest.mark.parametrize("rows", [None, 90])
def test_reading_gives_the_log_probabilities_of_dense_logits(rows: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill_objectives.rollouts.reading.CHUNK_BYTES", 4 * 9 * VOCABULARY * 2)
    student = model(1)
    ids_BT = torch.randint(3, 90, (5, 9), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 4:] = 0
    logp_BT, entropy_BT = read(student, ids_BT, mask_BT, rows=rows)
    with torch.no_grad():
        for b in range(5):
            length = int(mask_BT[b].sum())
            logits_TV: Tensor = student(input_ids=ids_BT[b : b + 1, :length]).logits[0, :, :rows]
            all_TV = logits_TV - logits_TV.logsumexp(-1, keepdim=True)
            expected_T = all_TV[:-1].gather(1, ids_BT[b, 1:length, None])[:, 0]
            torch.testing.assert_close(logp_BT[b, 1:length], expected_T.float(), rtol=1e-5, atol=1e-5)
            entropy_T = -(all_TV.exp() * all_TV).sum(-1)[:-1]
            torch.testing.assert_close(entropy_BT[b, 1:length], entropy_T.float(), rtol=1e-5, atol=1e-5)
    assert bool(logp_BT[:, 0].isnan().all())
