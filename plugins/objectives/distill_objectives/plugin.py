"""Entry module: declares the components; imports neither torch nor the objectives themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill_core.plugin import Component, Needs, component, hookimpl, objective
from distill_objectives.rollouts.components import on_policy_components, on_policy_problems

_DIVERGENCES = (
    (
        "forward-kl",
        "KL(teacher || student) with the tail, or truncated / renormalized by name",
        "ForwardKLOptions",
        ("exact", "sampled"),
    ),
    ("reverse-kl", "KL(student || teacher) with the tail", "ReverseKLOptions", ("exact",)),
    ("jsd", "generalised Jensen-Shannon divergence, 0 < beta < 1", "JSDOptions", ("exact",)),
    ("skew-forward-kl", "KL(teacher || alpha teacher + (1 - alpha) student)", "SkewOptions", ("exact",)),
    ("skew-reverse-kl", "KL(student || (1 - alpha) teacher + alpha student)", "SkewOptions", ("exact",)),
    ("total-variation", "half the absolute difference of the probabilities", "TotalVariationOptions", ("exact",)),
    ("alpha-beta", "two exponents between forward and reverse KL (ABKD)", "AlphaBetaOptions", ("exact",)),
    ("adaptive-kl", "forward and reverse KL mixed by the gaps of head and tail (AKL)", "AdaptiveKLOptions", ("exact",)),
    ("token-wise-kl", "forward and reverse KL mixed outcome by outcome (ToDi)", "TokenWiseKLOptions", ("exact",)),
    (
        "tail-aware-kl",
        "the teacher's modes one by one, the rest among itself with a larger weight (TAD)",
        "TailAwareKLOptions",
        ("exact",),
    ),
    (
        "logit-differences",
        "differences of the top logits, led by teacher and student (BiLD); no tail",
        "LogitDifferencesOptions",
        ("exact",),
    ),
    (
        "interpolated-support-kl",
        "KL to a target between student and teacher, interpolated on the support (TAID)",
        "InterpolatedSupportKLOptions",
        ("exact",),
    ),
)

_FEATURES = (
    (
        "hidden-mse",
        "HiddenMSE",
        "mean squared difference of hidden states, with a layer map and learned projections",
        ("hidden_states",),
    ),
    ("hidden-cosine", "HiddenCosine", "1 - cosine of hidden states (DistilBERT)", ("hidden_states",)),
    ("hidden-cka", "HiddenCKA", "1 - linear CKA of hidden states, at any widths", ("hidden_states",)),
    ("hidden-relational", "HiddenRelational", "distances and angles between rows (RKD)", ("hidden_states",)),
    (
        "hidden-contrastive",
        "HiddenContrastive",
        "each row finds its own teacher row among all (InfoNCE form of CRD)",
        ("hidden_states",),
    ),
    (
        "attention-maps",
        "AttentionMaps",
        "squared difference or KL of attention probabilities (TinyBERT)",
        ("attentions",),
    ),
    (
        "minilm",
        "MiniLM",
        "KL of attention distributions and of value relations (MiniLM)",
        ("attentions", "values"),
    ),
    (
        "minilm-v2",
        "MiniLMv2",
        "KL of query, key and value relations with relation heads (MiniLMv2)",
        ("queries", "keys", "values"),
    ),
)

_TASKS = (
    ("sequence-classification", "one class per text", "SequenceClassification"),
    ("token-classification", "one class per word", "TokenClassification"),
    ("image-classification", "one class per image", "ImageClassification"),
)

_SCHEDULES = (
    ("constant", "the same value at every step", "Constant", "ConstantOptions"),
    ("linear", "from start to end along a straight line", "Linear", "RampOptions"),
    ("cosine", "from start to end along half a cosine", "Cosine", "RampOptions"),
    ("exponential", "from start to end by equal factors", "Exponential", "ExponentialOptions"),
    ("step", "one value after another, changing at given places", "Step", "StepOptions"),
)

_SAMPLERS = (
    ("curriculum", "easy sequences first, by length, record, student or teacher loss", "Curriculum"),
    (
        "domain-reweighting",
        "domains drawn by the student's gap to the teacher on a probe (after DDK)",
        "DomainReweighting",
    ),
)

_ROW_WEIGHTS = (
    (
        "teacher-entropy",
        "by how sure the teacher is: exp(-beta entropy), or one minus that",
        "TeacherEntropy",
        "TeacherEntropyOptions",
        ("exact", "sampled"),
    ),
    (
        "ensemble-variance",
        "by how far several teachers agree: exp(-beta variance), or one minus that",
        "EnsembleVariance",
        "EnsembleVarianceOptions",
        ("exact", "sampled"),
    ),
    (
        "domains",
        "a weight by the record's domain, e.g. of the label and the rationale task",
        "Domains",
        "DomainsOptions",
        (),
    ),
    (
        "progressive-steps",
        "the last steps of a rationale count first, earlier ones join over training",
        "ProgressiveSteps",
        "ProgressiveStepsOptions",
        (),
    ),
    (
        "writers",
        "by who wrote the sequence: student, teacher or the data",
        "Writers",
        "WritersOptions",
        (),
    ),
)


@hookimpl
def distill_components() -> Sequence[Component]:
    components = []
    for name, summary, options, targets in _DIVERGENCES:
        module = name.replace("-", "_")
        components.append(
            objective(
                name,
                f"distill_objectives.{module}:{module}",
                summary=summary,
                options=f"distill_objectives.options:{options}",
                targets=targets,
            )
        )
    components.append(
        objective(
            "decoupled-kd",
            "distill_objectives.decoupled_kd:DecoupledKD",
            summary="the label against the rest, and the rest among itself (DKD); reads labels",
            options="distill_objectives.options:DecoupledKDOptions",
        )
    )
    components.append(
        objective(
            "cross-entropy",
            "distill_objectives.cross_entropy:CrossEntropy",
            summary="hard labels, with label smoothing and z-loss; needs no teacher",
            options="distill_objectives.options:CrossEntropyOptions",
            signals=(),
            targets=(),
        )
    )
    for name, attribute, summary, signals in _FEATURES:
        components.append(
            objective(
                name,
                f"distill_objectives.features.{name.replace('-', '_')}:{attribute}",
                summary=summary,
                options=f"distill_objectives.features.options:{attribute}Options",
                signals=signals,
                targets=(),
            )
        )
    components.append(
        objective(
            "label-posterior",
            "distill_objectives.label_posterior:LabelPosterior",
            summary="the label, read with the teacher's prediction as a Dirichlet prior",
            options="distill_objectives.uncertainty_options:LabelPosteriorOptions",
            targets=("exact", "sampled"),
        )
    )
    components.append(
        objective(
            "ensemble-distribution",
            "distill_objectives.ensemble_distribution:EnsembleDistribution",
            summary="likelihood of several teachers under the student's Dirichlet: keeps their spread",
            options="distill_objectives.uncertainty_options:EnsembleDistributionOptions",
        )
    )
    for name, summary, attribute, options, targets in _ROW_WEIGHTS:
        components.append(
            Component(
                "row-weight",
                name,
                f"distill_objectives.row_weights.{name.replace('-', '_')}:{attribute}",
                summary=summary,
                options=f"distill_objectives.row_weights.options:{options}",
                needs=Needs(frozenset({"targets"} if targets else ()), targets),
            )
        )
    components.append(
        objective(
            "universal-logit",
            "distill_objectives.universal_logit:UniversalLogit",
            summary="sorted probabilities of teacher and student, whatever their vocabularies (ULD); needs an aligner",
            options="distill_objectives.universal_logit_options:UniversalLogitOptions",
            signals=("ranked_log_probs",),
            targets=(),
        )
    )
    components.append(
        objective(
            "image-text-contrastive",
            "distill_objectives.image_text_contrastive:ImageTextContrastive",
            summary="images find the captions of their classes among all, captions their images (CLIP, UniCL)",
            options="distill_objectives.image_text_options:ImageTextContrastiveOptions",
            signals=(),
            targets=(),
        )
    )
    components.append(
        objective(
            "hard-label",
            "distill_objectives.hard_label:HardLabel",
            summary="cross-entropy with the teacher's most likely class or token (hard distillation, DeiT)",
            options="distill_objectives.options:HardLabelOptions",
        )
    )
    for name, summary, attribute in _TASKS:
        components.append(
            component(
                "task",
                name,
                f"distill_objectives.tasks.{name.replace('-', '_')}:{attribute}",
                summary=summary,
                options=f"distill_objectives.tasks.options:{attribute}Options",
            )
        )
    for name, summary, attribute, options in _SCHEDULES:
        components.append(
            component(
                "schedule",
                name,
                f"distill_objectives.schedules.{name}:{attribute}",
                summary=summary,
                options=f"distill_objectives.options:{options}",
            )
        )
    for name, summary, attribute in _SAMPLERS:
        components.append(
            component(
                "sampler",
                name,
                f"distill_objectives.samplers.{name.replace('-', '_')}:{attribute}",
                summary=summary,
                options=f"distill_objectives.sampler_options:{attribute}Options",
            )
        )
    components += on_policy_components()
    return components


@hookimpl
def distill_check_plan(plan: Any) -> Sequence[str]:
    return list(on_policy_problems(plan))
