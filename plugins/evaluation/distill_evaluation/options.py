"""Options of the evaluators; torch-free, so that a run file can be checked without torch."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from distill_core.options import Options


class FidelityOptions(Options):
    """Options of ``fidelity``."""

    overlap_k: PositiveInt = Field(default=10, description="size of the top-k sets whose overlap is measured")


class SparseFidelityOptions(Options):
    """Options of ``sparse-fidelity``."""

    k: PositiveInt = Field(default=20, description="tokens asked for of a live teacher; a store gives what it holds")


class CalibrationOptions(Options):
    """Options of ``calibration``."""

    bins: int = Field(default=15, ge=2, le=1000, description="bins of equal mass, and as many of equal width")


class TemperatureScalingOptions(CalibrationOptions):
    """Options of ``temperature-scaling``."""

    fit_share: float = Field(
        default=0.5, gt=0, lt=1, description="share of the documents that the temperature is fitted on, not reported"
    )
