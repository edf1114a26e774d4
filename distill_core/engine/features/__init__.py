"""Features of sequences by a model, computed once, kept memory-mapped on disk and shared by selectors."""

from __future__ import annotations

from distill_core.engine.features.features import Features, ModelState, data_key
from distill_core.engine.features.table import FeatureStore

__all__ = ["FeatureStore", "Features", "ModelState", "data_key"]
