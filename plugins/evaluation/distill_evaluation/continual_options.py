"""Options of ``negative-flips``; torch-free."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from distill_core.options import Options


class NegativeFlipsOptions(Options):
    """Options of ``negative-flips``."""

    before: dict[str, str] = Field(
        min_length=1, description="older revision (model id or directory) by the name of the model that replaced it"
    )
    bound_nat: NonNegativeFloat = Field(
        default=0.02, description="KL(new || old) above which a row would be labelled anew, as capture.update does"
    )

    def files(self) -> list[str]:
        """What the result depends on beside the options."""
        return list(self.before.values())
