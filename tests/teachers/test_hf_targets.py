"""The hf teacher's targets against a dense float64 computation from the model's own logits."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_core.engine.data import collate
from distill_core.errors import SignalError, VocabularyError
from distill_core.types import Needs, SparseSpec, TokenBatch
from distill_teachers.hf import HFTeacher
from distill_teachers.row_keys import row_keys
from tests.conftest import make_tiny_llama
from tests.teachers.conftest import TARGETS, random_sequences, sequence


def dense(teacher: HFTeacher, batch: TokenBatch) -> Tensor:
    """[N, W] float64 logits at the rows, sequence by sequence without padding; valid columns alone."""
    parts = []
    for b in range(len(batch.keys)):
        length = int(batch.attention_mask_BT[b].sum())
        with torch.no_grad():
            logits_TV = teacher.model(batch.input_ids_BT[b : b + 1, :length]).logits[0].double()
        for t in range(length - 1):
            if batch.labels_BT[b, t + 1] != -100:
                parts.append(logits_TV[t, : len(teacher.tokenizer())])
    return torch.stack(parts)


@pytest.fixture
def batch(tiny_tokenizer: Any) -> TokenBatch:
    return collate(random_sequences(5, vocabulary=len(tiny_tokenizer)), pad_id=2)


@pytest.mark.parametrize("k", [1, 8, 64])
def test_topk(tiny_teacher: HFTeacher, batch: TokenBatch, k: int) -> None:
    needs = Needs(frozenset({"targets"}), temperatures=(1.0, 2.5))
    target = tiny_teacher.signals(batch, needs, SparseSpec("topk", k, (1.0, 2.5))).target
    logits_NW = dense(tiny_teacher, batch)
    assert target is not None and target.kind == "exact" and len(target) == len(batch.rows()) == len(logits_NW)
    top_NK = logits_NW.topk(k, dim=1)
    assert torch.equal(target.ids_NK, top_NK.indices)
    for t in (1.0, 2.5):
        logp_NW = torch.log_softmax(logits_NW / t, dim=1)
        rest_N = logp_NW.scatter(1, top_NK.indices, -math.inf).logsumexp(1)
        expected_NK1 = torch.cat([logp_NW.gather(1, top_NK.indices), rest_N[:, None]], dim=1)
        # the model computes in float32; batching with padding costs its rounding once more
        torch.testing.assert_close(target.log_probs(t).double(), expected_NK1, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_threshold(tiny_teacher: HFTeacher, batch: TokenBatch, temperature: float) -> None:
    needs = Needs(frozenset({"targets"}), temperatures=(temperature,))
    target = tiny_teacher.signals(batch, needs, SparseSpec("threshold", 9, (temperature,), seed=4)).target
    assert target is not None and target.weights_NK is not None and target.threshold_N is not None
    assert target.entropy_N is not None
    p_NW = torch.softmax(dense(tiny_teacher, batch) / temperature, dim=1)
    entropy_N = -(p_NW * p_NW.log()).sum(1)
    torch.testing.assert_close(target.entropy_N.double(), entropy_N, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target.weights_NK.sum(1), torch.ones(len(target)), rtol=0, atol=1e-5)
    c_N1 = target.threshold_N[:, None].double()
    # c solves sum min(1, p / c) = k, and a kept entry weighs max(p, c).
    torch.testing.assert_close(
        (p_NW / c_N1).clamp_max(1.0).sum(1), torch.full((len(target),), 9.0).double(), rtol=1e-4, atol=0
    )
    kept_NK = p_NW.gather(1, target.ids_NK)
    torch.testing.assert_close(target.weights_NK.double(), torch.maximum(kept_NK, c_N1), rtol=1e-4, atol=1e-7)
    exact = target.head()
    sure_NK = exact.ids_NK >= 0
    assert 0 < int(sure_NK.sum()) < sure_NK.numel()
    torch.testing.assert_close(
        exact.log_probs(temperature)[:, :-1][sure_NK].double(), kept_NK[sure_NK].log(), rtol=1e-4, atol=1e-5
    )


def test_multinomial(tiny_teacher: HFTeacher, batch: TokenBatch) -> None:
    target = tiny_teacher.signals(batch, TARGETS, SparseSpec("multinomial", 20, seed=4)).target
    assert target is not None and target.weights_NK is not None and target.threshold_N is None
    counts_NK = target.weights_NK * 20
    torch.testing.assert_close(counts_NK, counts_NK.round(), rtol=0, atol=1e-5)
    assert bool(((target.ids_NK < 0) == (target.weights_NK == 0)).all())
    assert int(target.ids_NK.max()) < len(tiny_teacher.tokenizer())


def test_the_threshold_of_a_row_kept_whole_is_zero(tiny_teacher: HFTeacher, batch: TokenBatch) -> None:
    n_tokens = len(tiny_teacher.tokenizer())
    target = tiny_teacher.signals(batch, TARGETS, SparseSpec("threshold", n_tokens)).target
    assert target is not None and target.threshold_N is not None
    assert bool((target.threshold_N == 0).all())
    assert int((target.head().ids_NK >= 0).sum()) == len(target) * n_tokens


def test_samples_depend_on_content_alone(tiny_teacher: HFTeacher, tiny_tokenizer: Any) -> None:
    """Alone, in a batch, in another order: the same ids. Another seed or a longer prefix: others."""
    sequences = random_sequences(4, vocabulary=len(tiny_tokenizer))
    spec = SparseSpec("threshold", 6, seed=1)

    def ids_of(chosen: Any, which: int, spec: SparseSpec = spec) -> Tensor:
        batch = collate(chosen)
        target = tiny_teacher.signals(batch, TARGETS, spec).target
        assert target is not None
        return target.ids_NK[batch.rows().sequence_N == which]

    alone = ids_of(sequences[2:3], 0)
    assert torch.equal(ids_of(sequences, 2), alone)
    assert torch.equal(ids_of(sequences[::-1], 1), alone)
    assert not torch.equal(ids_of(sequences[2:3], 0, SparseSpec("threshold", 6, seed=2)), alone)


def test_row_keys_are_unique_and_fixed() -> None:
    keys = [bytes(range(16)), bytes(range(1, 17))]
    sequence_N = torch.arange(2).repeat_interleave(1000)
    position_N = torch.arange(1000).repeat(2)
    found_N = row_keys(keys, sequence_N, position_N)
    assert len(set(found_N.tolist())) == 2000
    # The definition once more, in Python's integers: stored samples depend on it.
    for n in (0, 1, 1000, 1999):
        low, high = (int.from_bytes(keys[n // 1000][part], "little") for part in (slice(0, 8), slice(8, 16)))
        expected = mixed(mixed(low ^ mixed(high)) + (n % 1000 + 1) * 0x9E3779B97F4A7C15)
        assert int(found_N[n]) % 2**64 == expected


def mixed(x: int) -> int:
    """splitmix64's finaliser."""
    x %= 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_draws(tiny_teacher: HFTeacher, batch: TokenBatch) -> None:
    signals = tiny_teacher.signals(batch, TARGETS, SparseSpec("threshold", 6, seed=1, draws=3))
    draws = signals.extra["draws"]
    assert len(draws) == 3 and signals.target is not None
    single = tiny_teacher.signals(batch, TARGETS, SparseSpec("threshold", 6, seed=1)).target
    assert single is not None
    assert torch.equal(signals.target.ids_NK, single.ids_NK) and torch.equal(draws[0].ids_NK, single.ids_NK)
    assert not torch.equal(draws[1].ids_NK, draws[0].ids_NK) and not torch.equal(draws[1].ids_NK, draws[2].ids_NK)


@pytest.mark.parametrize("method", ["topk", "threshold"])
def test_no_rows(tiny_teacher: HFTeacher, method: Any) -> None:
    batch = collate([sequence([5, 6, 7], masked=3)])
    target = tiny_teacher.signals(batch, TARGETS, SparseSpec(method, 4)).target
    assert target is not None and target.ids_NK.shape == (0, 4)


def heads() -> dict[str, Any]:
    """Architectures whose heads do more than a matrix product."""
    from transformers import (
        CohereConfig,
        CohereForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        GraniteConfig,
        GraniteForCausalLM,
        PhiConfig,
        PhiForCausalLM,
    )

    small: dict[str, Any] = {
        "vocab_size": 333,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    makers = {
        "softcap": lambda: Gemma2ForCausalLM(Gemma2Config(**small, head_dim=8, final_logit_softcapping=3.0)),
        "divided": lambda: GraniteForCausalLM(GraniteConfig(**small, logits_scaling=4.0)),
        "scaled": lambda: CohereForCausalLM(CohereConfig(**small, logit_scale=0.3)),
        "bias": lambda: PhiForCausalLM(PhiConfig(**small)),
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=333, n_embd=32, n_layer=2, n_head=4, n_positions=128)),
    }
    return makers


@pytest.mark.parametrize("name", ["softcap", "divided", "scaled", "bias", "gpt2"])
@pytest.mark.parametrize("by_forward", [False, True], ids=["head", "forward"])
def test_real_heads(name: str, by_forward: bool, tiny_tokenizer: Any) -> None:
    """Softcap, scale, bias and tied heads are part of the teacher, on both roads (TRL's fused path drops the cap)."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = heads()[name]().eval()
        if name == "bias":
            torch.nn.init.normal_(model.lm_head.bias)
    teacher = HFTeacher.from_model(model, tiny_tokenizer, label=name)
    if by_forward:
        teacher.__dict__["_head_spec"] = None
    else:
        assert teacher._head_spec is not None
    batch = collate(random_sequences(3, vocabulary=len(tiny_tokenizer)))
    needs = Needs(frozenset({"targets", "hidden_states"}), temperatures=(1.0,))
    signals = teacher.signals(batch, needs, SparseSpec("topk", 7))
    assert signals.target is not None and signals.hidden_states is not None
    logp_NW = torch.log_softmax(dense(teacher, batch), dim=1)
    expected_NK = logp_NW.gather(1, signals.target.ids_NK)
    torch.testing.assert_close(signals.target.log_probs()[:, :-1].double(), expected_NK, rtol=1e-4, atol=5e-5)
    assert signals.hidden_states[0].shape == (*batch.input_ids_BT.shape, 32)
    assert len(signals.hidden_states) == 3
    sampled = teacher.signals(batch, TARGETS, SparseSpec("threshold", 7, seed=2)).target
    assert sampled is not None and sampled.weights_NK is not None
    assert bool((sampled.weights_NK > 0).all())


def test_hidden_states_and_attentions(tiny_teacher: HFTeacher, batch: TokenBatch) -> None:
    needs = Needs(frozenset({"hidden_states", "attentions"}), targets=(), temperatures=())
    signals = tiny_teacher.signals(batch, needs)
    assert signals.target is None and signals.hidden_states is not None and signals.attentions is not None
    eager = copy.deepcopy(tiny_teacher.model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        output = eager(
            batch.input_ids_BT,
            attention_mask=batch.attention_mask_BT,
            output_hidden_states=True,
            output_attentions=True,
        )
    for found, expected in zip(signals.hidden_states, output.hidden_states, strict=True):
        torch.testing.assert_close(found, expected)
    for found, expected in zip(signals.attentions, output.attentions, strict=True):
        torch.testing.assert_close(found, expected)
    assert not signals.hidden_states[0].requires_grad


def test_default_sparsity_is_topk(tiny_teacher: HFTeacher, batch: TokenBatch) -> None:
    target = tiny_teacher.signals(batch, TARGETS).target
    assert target is not None and target.kind == "exact" and target.ids_NK.shape[1] == 64


@pytest.mark.parametrize("where", ["embedding", "layer", "head"])
def test_nan_in_the_weights_stops_at_the_first_batch(where: str, tiny_tokenizer: Any, batch: TokenBatch) -> None:
    model = make_tiny_llama(vocab_size=len(tiny_tokenizer))
    broken = {
        "embedding": model.model.embed_tokens.weight,
        "layer": model.model.layers[1].mlp.up_proj.weight,
        "head": model.lm_head.weight,
    }[where]
    with torch.no_grad():
        broken[int(batch.input_ids_BT[0, 0]) if where != "layer" else 3, 2] = float("nan")
    teacher = HFTeacher.from_model(model, tiny_tokenizer, label="teacher-with-nan")
    with pytest.raises(SignalError, match=r"teacher-with-nan .*NaN"):
        teacher.signals(batch, TARGETS, SparseSpec("topk", 4))


def test_refusals(tiny_teacher: HFTeacher, batch: TokenBatch) -> None:
    with pytest.raises(SignalError, match="rationales"):
        tiny_teacher.signals(batch, Needs(frozenset({"rationales"})))
    with pytest.raises(SignalError, match=r"k = 999.*tokens"):
        tiny_teacher.signals(batch, TARGETS, SparseSpec("topk", 999))
    with pytest.raises(SignalError, match=r"\[1.0\].*\[2.0\]"):
        tiny_teacher.signals(batch, TARGETS, SparseSpec("threshold", 4, (2.0,)))
    with pytest.raises(SignalError, match="one temperature"):
        tiny_teacher.signals(batch, TARGETS, SparseSpec("threshold", 4, (1.0, 2.0)))
    with pytest.raises(SignalError, match="draws"):
        tiny_teacher.signals(batch, TARGETS, SparseSpec("topk", 4, draws=2))
    with pytest.raises(SignalError, match=r"300 tokens.*256"):
        tiny_teacher.signals(collate([sequence([5] * 300)]), TARGETS)
    with pytest.raises(VocabularyError, match="token id 4000"):
        tiny_teacher.signals(collate([sequence([5, 4000, 6])]), TARGETS)
