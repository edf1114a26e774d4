"""What a distillation will cost and what may come of it, before anything runs. No torch.

Laws and formulas, each with its source and the region it holds in; ``distill plan`` prints the whole.
"""

from __future__ import annotations

from distill_core.planning.figures import Advice, Figure, Formula, Plan
from distill_core.planning.shape import ModelShape

__all__ = ["Advice", "Figure", "Formula", "ModelShape", "Plan"]
