"""Entry module: declares the components; imports neither torch nor the objectives themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill_core.plugin import Component, component, hookimpl, objective
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

_ROW_WEIGHTS = (
    (
        "domains",
        "a weight by the record's domain, e.g. of the label and the rationale task",
        "domains:Domains",
        "DomainsOptions",
    ),
    (
        "progressive-steps",
        "the last steps of a rationale count first, earlier ones join over training",
        "progressive_steps:ProgressiveSteps",
        "ProgressiveStepsOptions",
    ),
)
"""Name, summary, target, options model."""

_SCHEDULES = (
    ("constant", "the same value at every step", "Constant", "ConstantOptions"),
    ("linear", "from start to end along a straight line", "Linear", "RampOptions"),
    ("cosine", "from start to end along half a cosine", "Cosine", "RampOptions"),
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
    components.append(
        objective(
            "hidden-mse",
            "distill_objectives.hidden_mse:HiddenMSE",
            summary="mean squared difference of hidden states, with a layer map and learned projections",
            options="distill_objectives.options:HiddenMSEOptions",
            signals=("hidden_states",),
            targets=(),
        )
    )
    for name, summary, target, options in _ROW_WEIGHTS:
        components.append(
            component(
                "row-weight",
                name,
                f"distill_objectives.row_weights.{target}",
                summary=summary,
                options=f"distill_objectives.row_weights.options:{options}",
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
    components += on_policy_components()
    return components


@hookimpl
def distill_check_plan(plan: Any) -> Sequence[str]:
    return list(on_policy_problems(plan))
