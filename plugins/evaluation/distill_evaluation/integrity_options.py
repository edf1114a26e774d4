"""Options of the evaluators that ask what was memorised; torch-free."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from distill_core.options import ModelSource, Options


class ContaminationOptions(Options):
    """Options of ``contamination``."""

    n: PositiveInt = Field(default=13, description="words of a run")
    contaminated_share: float = Field(
        default=0.5, gt=0, le=1, description="share of a document's runs in training from which it counts as trained on"
    )
    encoder: ModelSource | None = Field(
        default=None,
        description="encoder (hub id, directory or package:NAME/DIRECTORY) for similarities; default: hashed words and "
        "pairs of words",
    )
    near_duplicate: float = Field(default=0.95, gt=0, le=1, description="cosine from which a document is a near copy")

    def files(self) -> list[str]:
        """What the result depends on beside the options."""
        return [] if self.encoder is None else [self.encoder]


class MembershipInferenceOptions(Options):
    """Options of ``membership-inference``."""

    sequences: PositiveInt = Field(
        default=128, description="training sequences asked about at most, and as many held-out ones, drawn by the seed"
    )
    min_k: float = Field(default=0.2, gt=0, le=1, description="share of least likely tokens that Min-K% looks at")
    false_positives: float = Field(
        default=0.01, gt=0, lt=1, description="false positive rate at which true positives are counted"
    )
    batch_sequences: PositiveInt = Field(default=8, description="training sequences per forward pass")


class CanaryFile(Options):
    """A file of canaries, shared by what plants and what measures them."""

    path: str = Field(
        description="JSON Lines file: {`canary`: text with {} where the secret stands, `secret`: e.g. 4821}"
    )

    def files(self) -> list[str]:
        """What the result depends on beside the options."""
        return [self.path]


class CanariesOptions(CanaryFile):
    """Options of ``canaries``."""

    alternatives: PositiveInt = Field(default=999, description="other secrets of the same shape to rank among")
    significance: float = Field(
        default=0.01, gt=0, lt=1, description="chance, over all canaries, of a flag without memorisation"
    )
    seed: NonNegativeInt = Field(default=0, description="seed of the other secrets")
    batch_sequences: PositiveInt = Field(default=16, description="texts per forward pass")


class PlantCanariesOptions(CanaryFile):
    """Options of ``plant-canaries``."""

    repeats: PositiveInt = Field(default=1, description="how often each canary is put into the training data")
