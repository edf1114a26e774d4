"""Entry module: declares the components; imports neither torch nor the components themselves."""

from __future__ import annotations

from collections.abc import Sequence

from distill_core.plugin import Component, component, hookimpl


@hookimpl
def distill_components() -> Sequence[Component]:
    return [
        component(
            "source",
            "text-files",
            "distill_synthesis.text_files:TextFiles",
            summary="text files by path, glob or installed package; picked by name or by a number in the name",
            options="distill_synthesis.options:TextFilesOptions",
        ),
        component(
            "source",
            "jsonl",
            "distill_synthesis.jsonl:JsonLines",
            summary="JSON lines: text, prompt and completion, or messages",
            options="distill_synthesis.options:JsonLinesOptions",
        ),
        component(
            "source",
            "hf-dataset",
            "distill_synthesis.hf_dataset:HFDataset",
            summary="a Hugging Face dataset: hub id, or a directory on disk",
            options="distill_synthesis.options:HFDatasetOptions",
        ),
        component(
            "source",
            "arithmetic",
            "distill_synthesis.questions.arithmetic:Arithmetic",
            summary="grade-school arithmetic with worked steps, made by a program (synthetic)",
            options="distill_synthesis.questions.options:ArithmeticOptions",
        ),
        component(
            "source",
            "reasoning-gym",
            "distill_synthesis.questions.reasoning_gym_source:ReasoningGym",
            summary="procedural tasks with exact scorers, from the library reasoning-gym (synthetic)",
            options="distill_synthesis.questions.options:ReasoningGymOptions",
        ),
        component(
            "synthesizer",
            "rationales",
            "distill_synthesis.rationales.synthesizer:Rationales",
            summary="a teacher writes rationales; kept by answer check and vote, with provenance",
            options="distill_synthesis.rationales.options:RationalesOptions",
            signals=("text",),
        ),
        component(
            "transform",
            "rationale-tasks",
            "distill_synthesis.rationales.tasks:RationaleTasks",
            summary="question, rationale and answer as training records: multi-task, or rationale then answer",
            options="distill_synthesis.rationales.options:RationaleTasksOptions",
        ),
        component(
            "checker",
            "exact-answer",
            "distill_synthesis.checkers.exact_answer:ExactAnswer",
            summary="right where the text is the record's answer",
            options="distill_synthesis.checkers.options:ExactAnswerOptions",
        ),
        component(
            "checker",
            "numeric-answer",
            "distill_synthesis.checkers.numeric_answer:NumericAnswer",
            summary="right where the last number is the record's answer",
            options="distill_synthesis.checkers.options:NumericAnswerOptions",
        ),
        component(
            "checker",
            "reasoning-gym",
            "distill_synthesis.checkers.reasoning_gym_answer:ReasoningGymAnswer",
            summary="the task's own scorer, for records of the source reasoning-gym",
            options="distill_synthesis.checkers.options:ReasoningGymAnswerOptions",
        ),
        component(
            "synthesizer",
            "sequence-kd",
            "distill_synthesis.sequence_kd:SequenceKD",
            summary="the teacher's own completions of the records' prompts, kept on disk as they come",
            options="distill_synthesis.sequence_kd_options:SequenceKDOptions",
            signals=("text",),
        ),
        component(
            "synthesizer",
            "gradient-matching",
            "distill_synthesis.matching.gradient_matching:GradientMatching",
            summary="few images whose gradients in random networks are those of the real ones (DC, DSA)",
            options="distill_synthesis.matching.options:GradientMatchingOptions",
        ),
        component(
            "synthesizer",
            "distribution-matching",
            "distill_synthesis.matching.distribution_matching:DistributionMatching",
            summary="few images whose mean embeddings in random networks are those of the real ones (DM)",
            options="distill_synthesis.matching.options:DistributionMatchingOptions",
        ),
        component(
            "synthesizer",
            "trajectory-matching",
            "distill_synthesis.matching.trajectory_matching:TrajectoryMatching",
            summary="few images that lead a network where real images led experts (MTT)",
            options="distill_synthesis.matching.options:TrajectoryMatchingOptions",
        ),
        component(
            "synthesizer",
            "kernel-regression",
            "distill_synthesis.matching.kernel_regression:KernelRegression",
            summary="few images from whose features ridge regression predicts the real ones (FRePo)",
            options="distill_synthesis.matching.options:KernelRegressionOptions",
        ),
        component(
            "source",
            "table",
            "distill_synthesis.table:Table",
            summary="CSV, TSV and JSON tables by path or installed package; columns by name, number or range",
            options="distill_synthesis.options:TableOptions",
        ),
        component(
            "filter",
            "exact-dedup",
            "distill_synthesis.exact_dedup:ExactDedup",
            summary="keeps the first of records with the same content",
            options="distill_synthesis.options:ExactDedupOptions",
        ),
    ]
