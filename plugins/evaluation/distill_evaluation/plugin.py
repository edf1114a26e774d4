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
            summary="expected calibration error by equal mass and width, Brier score, reliability curves",
            options="distill_evaluation.options:CalibrationOptions",
        ),
        component(
            "evaluator",
            "group-fairness",
            "distill_evaluation.group_fairness:GroupFairness",
            summary="worst group and gap between groups that a field of the records names",
            options="distill_evaluation.fairness_options:GroupFairnessOptions",
        ),
        component(
            "evaluator",
            "synthetic-probes",
            "distill_evaluation.synthetic_probes:SyntheticProbes",
            summary="synthetic sentences that differ in a group's word alone",
            options="distill_evaluation.fairness_options:SyntheticProbesOptions",
        ),
        component(
            "evaluator",
            "negative-flips",
            "distill_evaluation.negative_flips:NegativeFlips",
            summary="what a new revision gets wrong that the old one had right, and rows to label anew",
            options="distill_evaluation.continual_options:NegativeFlipsOptions",
        ),
        component(
            "evaluator",
            "response-similarity",
            "distill_evaluation.response_similarity:ResponseSimilarity",
            summary="whether teacher and model write the same after held-out prompts",
            options="distill_evaluation.likeness_options:ResponseSimilarityOptions",
        ),
        component(
            "evaluator",
            "identity-leakage",
            "distill_evaluation.identity_leakage:IdentityLeakage",
            summary="whom a model says it is when it is asked",
            options="distill_evaluation.likeness_options:IdentityLeakageOptions",
        ),
        component(
            "evaluator",
            "pass-at-k",
            "distill_evaluation.pass_at_k:PassAtK",
            summary="chance that one of k drawn answers to a question is right",
            options="distill_evaluation.reasoning_options:PassAtKOptions",
        ),
        component(
            "evaluator",
            "chain-corruption",
            "distill_evaluation.chain_corruption:ChainCorruption",
            summary="answers behind an intact chain, none, half of it, shuffled steps and another question's",
            options="distill_evaluation.reasoning_options:ChainCorruptionOptions",
        ),
        component(
            "evaluator",
            "step-validity",
            "distill_evaluation.step_validity:StepValidity",
            summary="share of the equations in a model's chains that are true",
            options="distill_evaluation.reasoning_options:StepValidityOptions",
        ),
        component(
            "evaluator",
            "diversity",
            "distill_evaluation.diversity:Diversity",
            summary="variety of the training data and of what a model writes: distinct-n, self-BLEU, Vendi score, ...",
            options="distill_evaluation.diversity_options:DiversityOptions",
        ),
        component(
            "evaluator",
            "contamination",
            "distill_evaluation.contamination:Contamination",
            summary="runs of words and near copies of held-out documents in the training data",
            options="distill_evaluation.integrity_options:ContaminationOptions",
        ),
        component(
            "evaluator",
            "training-influence",
            "distill_evaluation.training_influence:TrainingInfluence",
            summary="which training examples hurt: their gradients against that of the held-out loss",
            options="distill_evaluation.influence_options:TrainingInfluenceOptions",
        ),
        component(
            "evaluator",
            "membership-inference",
            "distill_evaluation.membership_inference:MembershipInference",
            summary="whether training sequences are told from held-out ones by loss and by Min-K%",
            options="distill_evaluation.integrity_options:MembershipInferenceOptions",
        ),
        component(
            "evaluator",
            "canaries",
            "distill_evaluation.canaries:Canaries",
            summary="exposure of secrets that were planted in the training data",
            options="distill_evaluation.integrity_options:CanariesOptions",
        ),
        component(
            "transform",
            "plant-canaries",
            "distill_evaluation.canaries:PlantCanaries",
            summary="puts secrets into the training data, for the evaluator canaries",
            options="distill_evaluation.integrity_options:PlantCanariesOptions",
        ),
        component(
            "evaluator",
            "temperature-scaling",
            "distill_evaluation.temperature_scaling:TemperatureScaling",
            summary="calibration before and after one temperature, fitted on documents that are not reported",
            options="distill_evaluation.options:TemperatureScalingOptions",
        ),
    ]
