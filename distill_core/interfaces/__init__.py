"""The Protocols that plugins implement, one per kind. Nothing here runs; it is what the engine relies on."""

from __future__ import annotations

from distill_core.interfaces.data import (
    Checker,
    Filter,
    Source,
    SynthesisContext,
    Synthesizer,
    Task,
    Transform,
    Verdict,
)
from distill_core.interfaces.evaluation import (
    EvaluatedRows,
    EvaluationContext,
    Evaluator,
    Measurement,
    RowAccumulator,
    RowEvaluator,
)
from distill_core.interfaces.teachers import (
    Aggregator,
    Aligner,
    Alignment,
    Generator,
    Teacher,
)
from distill_core.interfaces.training import (
    BuildContext,
    Objective,
    Rollout,
    RowObjective,
    RowWeight,
    Sampler,
    Schedule,
    StepContext,
)
from distill_core.store.tokenizer import VocabularyInfo

__all__ = [
    "Aggregator",
    "Aligner",
    "Alignment",
    "BuildContext",
    "Checker",
    "EvaluatedRows",
    "EvaluationContext",
    "Evaluator",
    "Filter",
    "Generator",
    "Measurement",
    "Objective",
    "Rollout",
    "RowAccumulator",
    "RowEvaluator",
    "RowObjective",
    "RowWeight",
    "Sampler",
    "Schedule",
    "Source",
    "StepContext",
    "SynthesisContext",
    "Synthesizer",
    "Task",
    "Teacher",
    "Transform",
    "Verdict",
    "VocabularyInfo",
]
