"""Entry module: declares the components; imports neither torch nor the objectives themselves."""

from __future__ import annotations

from collections.abc import Sequence

from distill_core.plugin import Component, component, hookimpl, objective

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
    return components
