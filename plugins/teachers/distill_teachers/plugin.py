"""Entry module: declares the components; imports neither torch nor the teachers themselves."""

from __future__ import annotations

from collections.abc import Sequence

from distill_core.plugin import Component, Provides, hookimpl, teacher

_ALIGNED = frozenset({"targets", "ranked_log_probs"})


@hookimpl
def distill_components() -> Sequence[Component]:
    return [
        teacher(
            "hf",
            "distill_teachers.hf:HFTeacher",
            summary="any Transformers causal language model: directory, hub id, GGUF file, or GGUF inside a package",
            options="distill_teachers.options:HFOptions",
            signals=("targets", "hidden_states", "attentions", "queries", "keys", "values", "text"),
        ),
        teacher(
            "store",
            "distill_teachers.store:StoreTeacher",
            summary="signals captured before, from a store directory; the teacher's weights are not needed",
            options="distill_teachers.options:StoreOptions",
            signals=("targets",),
        ),
        Component(
            "aligner",
            "byte-span",
            "distill_teachers.aligners.byte_span:ByteSpan",
            summary="another tokenizer, by byte offsets: mapped top-k, exact probabilities of spans of several tokens",
            provides=Provides(_ALIGNED, ("exact",), (1.0,)),
        ),
        Component(
            "aligner",
            "shared-vocabulary",
            "distill_teachers.aligners.shared_vocabulary:SharedVocabulary",
            summary="another tokenizer: tokens of the same bytes are mapped, the rest is tail",
            provides=Provides(_ALIGNED, ("exact",), None),
        ),
        teacher(
            "openai",
            "distill_teachers.openai:OpenAITeacher",
            summary="any OpenAI-compatible server: text, and exact targets where it lists log-probabilities",
            options="distill_teachers.openai_options:OpenAIOptions",
            signals=("text", "targets"),
            targets=("exact",),
            temperatures=(1.0,),
        ),
        teacher(
            "answers",
            "distill_teachers.answers:AnswersTeacher",
            summary="answers that people or another model wrote beforehand, from a JSONL file",
            options="distill_teachers.options:AnswersOptions",
            signals=("text",),
            targets=(),
            temperatures=(),
        ),
        teacher(
            "vllm",
            "distill_teachers.vllm:VLLMTeacher",
            summary="a model run by vLLM in this process: text and exact targets (needs the package vllm)",
            options="distill_teachers.options:VLLMOptions",
            signals=("text", "targets"),
            targets=("exact",),
            temperatures=(1.0,),
        ),
    ]
