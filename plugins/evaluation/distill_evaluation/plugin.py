"""What this package offers. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Sequence

from distill_core.plugin import Component, component, hookimpl


@hookimpl
def distill_components() -> Sequence[Component]:
    return [
        component(
            "evaluator",
            "language-model",
            "distill_evaluation.language_model:LanguageModel",
            summary="cross-entropy, perplexity, bits per byte and next-token accuracy",
        ),
        component(
            "evaluator",
            "fidelity",
            "distill_evaluation.fidelity:Fidelity",
            summary="KLs and Jensen-Shannon to the teacher over the full vocabulary, agreement, speculative acceptance",
            options="distill_evaluation.options:FidelityOptions",
        ),
        component(
            "evaluator",
            "sparse-fidelity",
            "distill_evaluation.sparse_fidelity:SparseFidelity",
            summary="KL and bounds of the speculative acceptance where the teacher gives only its likeliest tokens",
            options="distill_evaluation.options:SparseFidelityOptions",
        ),
        component(
            "evaluator",
            "classification",
            "distill_evaluation.classification:Classification",
            summary="accuracy, macro F1 and cross-entropy over the classes of a task",
        ),
        component(
            "evaluator",
            "answers",
            "distill_evaluation.answers:Answers",
            summary="answers to held-out questions, judged by a checker, with and without a rationale",
            options="distill_evaluation.answers_options:AnswersOptions",
        ),
        component(
            "evaluator",
            "lm-eval",
            "distill_evaluation.harness:Harness",
            summary="tasks of the lm-evaluation-harness, by name or from local files",
            options="distill_evaluation.harness_options:HarnessOptions",
        ),
        component(
            "evaluator",
            "own-text",
            "distill_evaluation.own_text:OwnText",
            summary="KL to the teacher on what the model itself writes after held-out prompts",
            options="distill_evaluation.own_text_options:OwnTextOptions",
        ),
        component(
            "evaluator",
            "calibration",
            "distill_evaluation.calibration:Calibration",
            summary="expected calibration error by equal mass, with the reliability curve",
            options="distill_evaluation.options:CalibrationOptions",
        ),
    ]
