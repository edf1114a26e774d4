"""Entry module: declares the components; imports neither torch nor the teachers themselves."""

from __future__ import annotations

from collections.abc import Sequence

from distill_core.plugin import Component, Provides, hookimpl, teacher

_DISAGREEMENT = ("ensemble_variance", "mutual_information", "expected_entropy")
"""What is known of several teachers beside their mixture."""

_AGGREGATORS = (
    ("fixed", "the same weights everywhere, arithmetic or geometric mean", "Fixed"),
    ("entropy", "row by row, surer teachers count more", "Entropy"),
    ("validation-loss", "teachers that predict held-out text better count more", "ValidationLoss"),
    ("router", "a gate learned while training: which teacher the text proves right", "Router"),
    ("domain", "every sequence learns from the teacher of its domain", "Domain"),
    ("minimum-ce", "per sequence, the teacher that predicts it best (MinCE), or an average (AvgCE)", "MinimumCE"),
)

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
            over=("tokens", "classes"),
        ),
        teacher(
            "hf-classifier",
            "distill_teachers.hf_classifier:HFClassifier",
            summary="a Transformers classifier of texts, tokens or images, for runs with a task",
            options="distill_teachers.options:HFClassifierOptions",
            signals=("targets", "hidden_states", "attentions", "queries", "keys", "values"),
            over=("classes",),
        ),
        teacher(
            "ema",
            "distill_teachers.ema:EMATeacher",
            summary="the student's own weights averaged over its steps; live only",
            options="distill_teachers.options:EMAOptions",
            signals=("targets", "hidden_states", "attentions", "queries", "keys", "values"),
        ),
        Component(
            "aligner",
            "byte-span",
            "distill_teachers.aligners.byte_span:ByteSpan",
            summary="another tokenizer, by byte offsets: mapped top-k, exact probabilities of spans of several tokens",
            options="distill_teachers.aligners.options:ByteSpanOptions",
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
        teacher(
            "ensemble",
            "distill_teachers.ensemble:EnsembleTeacher",
            summary="several local Transformers models of one tokenizer as one, mixed over the whole vocabulary",
            options="distill_teachers.ensemble_options:EnsembleOptions",
            signals=("targets", *_DISAGREEMENT),
        ),
        teacher(
            "calibrated",
            "distill_teachers.calibrated:CalibratedTeacher",
            summary="another teacher at the temperature that fits held-out text best",
            options="distill_teachers.ensemble_options:CalibratedOptions",
            signals=("targets",),
        ),
        *(
            Component(
                "aggregator",
                name,
                f"distill_teachers.aggregators.{name.replace('-', '_')}:{attribute}",
                summary=summary,
                options=f"distill_teachers.aggregators.options:{attribute}Options",
                provides=Provides(frozenset(_DISAGREEMENT)),
            )
            for name, summary, attribute in _AGGREGATORS
        ),
    ]
