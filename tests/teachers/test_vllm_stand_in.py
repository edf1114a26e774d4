"""The ``vllm`` teacher against a stand-in for the package vllm, made here: vLLM itself is not run by these tests.

The stand-in has the parts of vLLM's interface that the teacher uses (``LLM``, ``SamplingParams``, request outputs with
``prompt_logprobs``), computed by a tiny Transformers model. What it shows is that the teacher reads that interface
rightly, not that vLLM behaves so.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from distill_core.completions import GenerationParameters, GenerationRequest
from distill_core.engine.data import collate
from distill_core.engine.run_file.loading import parse_run_text
from distill_core.engine.run_file.validate import check_run
from distill_core.errors import ConfigError, DistillError, SignalError
from distill_core.plugin import Needs
from distill_core.registry import get_registry
from distill_core.types import SparseSpec
from distill_teachers.hf import HFTeacher
from distill_teachers.options import VLLMOptions
from distill_teachers.vllm import VLLMTeacher
from tests.conftest import make_tiny_llama
from tests.teachers.conftest import random_sequences

NEEDS = Needs(frozenset({"targets"}), targets=("exact",), temperatures=(1.0,))


class StandIn:
    """What ``vllm.LLM`` is to the teacher."""

    def __init__(self, teacher: HFTeacher) -> None:
        self.teacher = teacher
        self.arguments: dict[str, Any] = {}

    def module(self) -> ModuleType:
        module = ModuleType("vllm")

        def llm(**arguments: Any) -> StandIn:
            self.arguments = arguments
            return self

        module.LLM = llm  # type: ignore[attr-defined]
        module.SamplingParams = lambda **given: SimpleNamespace(**{"logprobs": None, "prompt_logprobs": None, **given})  # type: ignore[attr-defined]
        return module

    def get_tokenizer(self) -> Any:
        return self.teacher.tokenizer()

    def generate(self, prompts: list[dict[str, Any]], sampling: Any, *, use_tqdm: bool) -> list[Any]:
        each = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
        return [self._one(prompt["prompt_token_ids"], one) for prompt, one in zip(prompts, each, strict=True)]

    @torch.no_grad()
    def _one(self, ids: list[int], sampling: Any) -> Any:
        logp_TV = self.teacher.model(torch.tensor([ids])).logits[0, :, : self.teacher.valid_vocab].log_softmax(-1)
        over_prompt = None
        if sampling.prompt_logprobs is not None:
            over_prompt = [
                None,
                *(self._listed(logp_TV[t], ids[t + 1], sampling.prompt_logprobs) for t in range(len(ids) - 1)),
            ]
        index = int(logp_TV[-1].argmax())
        listed = None if sampling.logprobs is None else [self._listed(logp_TV[-1], index, sampling.logprobs)]
        text = self.teacher.tokenizer().decode([index])
        written = SimpleNamespace(text=text, token_ids=[index], logprobs=listed, finish_reason="length")
        return SimpleNamespace(prompt_token_ids=ids, prompt_logprobs=over_prompt, outputs=[written])

    def _listed(self, logp_V: torch.Tensor, own: int, k: int) -> dict[int, Any]:
        """The k most likely, and the token itself if it is not among them, as vLLM does."""
        ids = dict.fromkeys([*logp_V.topk(k).indices.tolist(), own])
        return {
            index: SimpleNamespace(logprob=float(logp_V[index]), decoded_token=self.teacher.tokenizer().decode([index]))
            for index in ids
        }


@pytest.fixture
def stand_in(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    local = HFTeacher.from_model(make_tiny_llama(vocab_size=len(tiny_tokenizer), seed=5), tiny_tokenizer)
    one = StandIn(local)
    monkeypatch.setitem(sys.modules, "vllm", one.module())
    return one


def test_targets_are_the_local_models(stand_in: StandIn) -> None:
    teacher = VLLMTeacher(VLLMOptions(model="org/name", engine={"max_model_len": 64}))
    batch = collate(random_sequences(4, vocabulary=len(stand_in.get_tokenizer())))
    found = teacher.signals(batch, NEEDS, SparseSpec("topk", 8)).target
    expected = stand_in.teacher.signals(batch, NEEDS, SparseSpec("topk", 8)).target
    assert found is not None and expected is not None and len(found) == len(expected) > 50
    assert torch.equal(found.ids_NK, expected.ids_NK)
    torch.testing.assert_close(found.log_probs(), expected.log_probs(), rtol=0, atol=2e-5)
    assert stand_in.arguments == {
        "model": "org/name", "revision": None, "dtype": "auto", "max_logprobs": 20, "max_model_len": 64,
    }  # fmt: skip


def test_writes(stand_in: StandIn) -> None:
    teacher = VLLMTeacher(VLLMOptions(model="org/name"))
    requests = [GenerationRequest(f"r{i}", prompt=text) for i, text in enumerate(("The state", "No nation"))]
    parameters = GenerationParameters(max_new_tokens=1, top_logprobs=3)
    found = list(teacher.generate(requests, parameters))
    expected = list(stand_in.teacher.generate(requests, parameters))
    for one, other in zip(found, expected, strict=True):
        assert (one.id, one.finish_reason, one.prompt_tokens) == (other.id, other.finish_reason, other.prompt_tokens)
        assert one.tokens and other.tokens
        assert [t.id for t in one.tokens[0].top] == [t.id for t in other.tokens[0].top]
        assert one.tokens[0].logprob == pytest.approx(other.tokens[0].logprob, abs=1e-5)
    assert teacher.tally.completion_tokens == 2


def test_wrong_use(stand_in: StandIn) -> None:
    teacher = VLLMTeacher(VLLMOptions(model="org/name"))
    batch = collate(random_sequences(2, vocabulary=50))
    with pytest.raises(SignalError, match="no threshold sample can be drawn"):
        teacher.signals(batch, NEEDS, SparseSpec("threshold", 4))
    with pytest.raises(SignalError, match=r"asked for temperatures \[1.0, 2.0\]"):
        teacher.signals(batch, NEEDS, SparseSpec("topk", 4, temperatures=(1.0, 2.0)))
    with pytest.raises(SignalError, match=r"k = 21 entries, but lists at most 20 \(top_logprobs\)"):
        teacher.signals(batch, NEEDS, SparseSpec("topk", 21))
    with pytest.raises(SignalError, match=r"cannot give \['hidden_states'\]"):
        teacher.signals(batch, Needs(frozenset({"hidden_states"})))


def test_what_a_user_without_vllm_is_told(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    text = """
name: x
output_dir: runs/x
teacher: {use: vllm, model: org/name}
student: {tokenizer: org/name, init: {model: org/student}}
data:
  train: {source: {use: text-files, paths: [README.md]}}
  eval: {source: {use: text-files, paths: [README.md]}}
train: {objectives: [{use: cross-entropy}], max_steps: 1, teacher: none}
"""
    with pytest.raises(ConfigError, match=r"teacher.*needs the package vllm: pip install vllm"):
        check_run(parse_run_text(text), registry=get_registry())
    with pytest.raises(DistillError, match=r"cannot be imported here .*pip install vllm"):
        VLLMTeacher(VLLMOptions(model="org/name")).tokenizer()
