"""The ``vllm`` teacher: a model run by vLLM in this process. An optional extra: ``pip install vllm``.

vLLM lists log-probabilities by token id, and over prompts beside the token they predicted: nothing has to be found out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

from distill_core.completions import (
    Completion,
    GenerationParameters,
    GenerationRequest,
    GenerationTally,
    TokenLogprob,
    WrittenToken,
    request_seed,
    unique_requests,
)
from distill_core.errors import DistillError, SignalError
from distill_core.interfaces import VocabularyInfo
from distill_core.store import vocabulary_info
from distill_core.types import Needs, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.listed_rows import listed_k, listed_target
from distill_teachers.options import VLLMOptions
from distill_teachers.prompts import prompt_ids

WINDOW = 1024
"""Requests handed to vLLM at a time; it batches them itself."""


class VLLMTeacher:
    """A model in vLLM's engine; loaded at first use.

    Args:
        options: model, dtype, further arguments of ``vllm.LLM``.
    """

    def __init__(self, options: VLLMOptions) -> None:
        self.options = options
        self.label = f"{options.model} in vLLM"
        self.tally = GenerationTally()

    @cached_property
    def _vllm(self) -> Any:
        try:
            import vllm
        except ImportError as error:
            raise DistillError(
                f"the teacher vllm needs the package vllm, which cannot be imported here ({error}): pip install vllm "
                "(Linux, a supported GPU), or use the teacher hf, or openai with a vLLM server"
            ) from error
        return vllm

    @cached_property
    def engine(self) -> Any:
        """``vllm.LLM``; lists as many log-probabilities as the options say."""
        arguments = {"max_logprobs": self.options.top_logprobs, **self.options.engine}
        return self._vllm.LLM(
            model=self.options.model, revision=self.options.revision, dtype=self.options.dtype, **arguments
        )

    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.engine.get_tokenizer()

    def vocabulary(self) -> VocabularyInfo:
        """Size and fingerprint of the tokenizer."""
        info = vocabulary_info(self.tokenizer())
        return VocabularyInfo(size=info.size, fingerprint=info.fingerprint, name=self.label)

    def identity(self) -> str:
        """Model and revision."""
        return f"vllm:{self.options.model}@{self.options.revision or 'main'}"

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """Exact targets at ``batch.rows()``: the k largest log-probabilities and the tail, at temperature 1.

        Raises:
            SignalError: another signal, method or temperature, or more entries than ``top_logprobs``.
        """
        unknown = sorted(needs.signals - {"targets"})
        if unknown:
            raise SignalError(
                f"the teacher {self.label} cannot give {unknown}: it gives targets, and text by generate()"
            )
        if "targets" not in needs.signals:
            return TeacherSignals()
        k = listed_k(needs, sparse, most=self.options.top_logprobs, label=self.label)
        lengths = batch.attention_mask_BT.sum(dim=1).tolist()
        sequences = [ids[:length] for ids, length in zip(batch.input_ids_BT.tolist(), lengths, strict=True)]
        sampling = self._vllm.SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=k)
        prompts = [{"prompt_token_ids": ids} for ids in sequences]
        outputs = self.engine.generate(prompts, sampling, use_tqdm=False)
        rows = batch.rows()
        listed = []
        for sequence, position in zip(rows.sequence_N.tolist(), rows.position_N.tolist(), strict=True):
            entry = outputs[sequence].prompt_logprobs[position + 1]
            listed.append({int(index): float(one.logprob) for index, one in entry.items()})
        target = listed_target(listed, k=k, vocabulary=self.vocabulary().size)
        return TeacherSignals(target=target.to(batch.input_ids_BT.device))

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        """Hand the requests to the engine, 1,024 at a time; it batches them and keeps their caches.

        Raises:
            SignalError: chat turns without a chat template, or more log-probabilities than ``top_logprobs``.
        """
        if parameters.top_logprobs > self.options.top_logprobs:
            raise SignalError(
                f"top_logprobs = {parameters.top_logprobs} was asked of {self.label}, which lists at most "
                f"{self.options.top_logprobs} (option top_logprobs)"
            )
        pending, tokenizer = unique_requests(requests), self.tokenizer()
        while window := list(islice(pending, WINDOW)):
            started_s = time.monotonic()
            prompts = [{"prompt_token_ids": prompt_ids(one, tokenizer, label=self.label)} for one in window]
            sampling = [self._sampling(request, parameters) for request in window]
            outputs = self.engine.generate(prompts, sampling, use_tqdm=False)
            self.tally.seconds += time.monotonic() - started_s
            for request, output in zip(window, outputs, strict=True):
                completion = _completion(request, output, parameters)
                self.tally.add(completion)
                yield completion

    def _sampling(self, request: GenerationRequest, parameters: GenerationParameters) -> Any:
        return self._vllm.SamplingParams(
            max_tokens=parameters.max_new_tokens,
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            stop=list(parameters.stop) or None,
            logprobs=parameters.top_logprobs or None,
            seed=request_seed(parameters.seed, request.id),
        )


def _completion(request: GenerationRequest, output: Any, parameters: GenerationParameters) -> Completion:
    (written,) = output.outputs
    tokens = None
    if parameters.top_logprobs:
        tokens = tuple(
            _token(index, entries) for index, entries in zip(written.token_ids, written.logprobs, strict=True)
        )
    return Completion(
        id=request.id,
        text=written.text,
        finish_reason=written.finish_reason or "stop",
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(written.token_ids),
        tokens=tokens,
    )


def _token(index: int, entries: Mapping[int, Any]) -> WrittenToken:
    listed = [TokenLogprob(one.decoded_token or "", float(one.logprob), int(i)) for i, one in entries.items()]
    own = next(one for one in listed if one.id == index)
    top = tuple(sorted(listed, key=lambda one: -one.logprob))
    return WrittenToken(own.text, own.logprob, own.id, top)
