"""The Protocols that plugins implement, one per kind. Nothing here runs; it is what the engine relies on."""

from __future__ import annotations

from distill_core.flag import Flag
from distill_core.interfaces.data import (
    Budget,
    Checker,
    Features,
    Filter,
    FilterContext,
    Ranking,
    SelectionContext,
    Selector,
    Source,
    SynthesisContext,
    Synthesizer,
    Task,
    Transform,
    Verdict,
)
from distill_core.interfaces.evaluation import (
    DataEvaluator,
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
    "Budget",
    "BuildContext",
    "Checker",
    "DataEvaluator",
    "EvaluatedRows",
    "EvaluationContext",
    "Evaluator",
    "Features",
    "Filter",
    "FilterContext",
    "Flag",
    "Generator",
    "Measurement",
    "Objective",
    "Ranking",
    "Rollout",
    "RowAccumulator",
    "RowEvaluator",
    "RowObjective",
    "RowWeight",
    "Sampler",
    "Schedule",
    "SelectionContext",
    "Selector",
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
