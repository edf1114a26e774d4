"""Options of the selectors. No torch import."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from distill_core.options import Options
from distill_core.plugin import Needs


class RandomOptions(Options):
    """Options of ``random``."""

    draw: NonNegativeInt = Field(default=0, description="another number, another draw with the same seed of the run")


class StratifiedOptions(Options):
    """Options of ``stratified``."""

    by: Literal["class", "domain", "document", "difficulty", "length"] = Field(
        default="domain", description="what makes a stratum; difficulty and length are cut into bins of equal size"
    )
    allocation: Literal["proportional", "equal"] = Field(
        default="proportional", description="each stratum by its share of the pool, or all alike as far as they last"
    )
    bins: PositiveInt = Field(default=5, description="strata made of difficulty or length")
    draw: NonNegativeInt = Field(default=0, description="another number, another draw with the same seed of the run")

    def needs(self, declared: Needs) -> Needs:
        """Strata by class need the labels of a task."""
        return replace(declared, signals=declared.signals | {"labels"}) if self.by == "class" else declared


class GeometryOptions(Options):
    """What selectors on features share."""

    per_class: bool = Field(
        default=False, description="choose within each class, in turn: needs a task with one class per sequence"
    )

    def needs(self, declared: Needs) -> Needs:
        """Choosing per class needs the labels of a task."""
        return replace(declared, signals=declared.signals | {"labels"}) if self.per_class else declared


class HerdingOptions(GeometryOptions):
    """Options of ``herding``."""

    normalize: bool = Field(default=True, description="scale features to length 1 first, as iCaRL does")


class KCenterOptions(GeometryOptions):
    """Options of ``k-center``."""

    start: Literal["nearest-mean", "random"] = Field(
        default="nearest-mean", description="the first sequence; the paper starts from a labelled pool instead"
    )


class ClassMeanOptions(GeometryOptions):
    """Options of ``class-mean``."""

    per_class: bool = Field(default=True, description="the mean of each class (needs a task), or one mean of all")


class DsirOptions(Options):
    """Options of ``dsir``."""

    ngrams: PositiveInt = Field(default=2, description="n-grams of 1 to this many tokens; the paper: words, 2")
    buckets: PositiveInt = Field(default=10_000, description="buckets they are hashed into; the paper: 10,000")
    smoothing: PositiveFloat = Field(
        default=1.0, description="added to every count of pool and target, so that no bucket has probability 0"
    )
    sample: bool = Field(default=True, description="resample by importance; else keep those of the greatest weight")
    draw: NonNegativeInt = Field(default=0, description="another number, another draw with the same seed of the run")


class IfdOptions(Options):
    """Options of ``ifd``."""

    drop_above: PositiveFloat = Field(
        default=1.0, description="refuse sequences with at least this difficulty: there the prompt does not help"
    )


class WarmUpOptions(Options):
    """A short training before scores are taken."""

    share: float = Field(default=0.05, gt=0, le=1, description="share of the pool that is trained on; LESS: 0.05")
    epochs: PositiveInt = Field(default=4, description="passes over it, a checkpoint after each; LESS: 4")
    learning_rate: PositiveFloat = Field(default=2e-5, description="of AdamW, falling linearly; LESS: 2e-5 (LoRA)")
    batch_sequences: PositiveInt = Field(default=8, description="sequences per optimizer step")


class El2nOptions(Options):
    """Options of ``el2n``."""

    keep: Literal["hardest", "easiest"] = Field(default="hardest", description="the paper keeps the hardest")
    networks: PositiveInt = Field(
        default=1, description="warm-ups, each with its own sample and order, that scores are averaged over"
    )
    warm_up: WarmUpOptions | None = Field(
        default=None, description="training before scores are taken; default: the initial student is asked"
    )


class GrandOptions(El2nOptions):
    """Options of ``grand``."""

    layers: str | None = Field(
        default=None, description="regular expression on names of linear layers; default: all, the head included"
    )


class LessOptions(Options):
    """Options of ``less``."""

    dim: PositiveInt = Field(default=8192, description="columns of the random projection; the paper: 8192")
    layers: str | None = Field(
        default=None, description="regular expression on names of linear layers; default: all but the head"
    )
    warm_up: WarmUpOptions = Field(default_factory=WarmUpOptions, description="the training that checkpoints come from")
    tasks: Literal["domain", "one"] = Field(
        default="domain", description="subtasks of the target, of which the best counts: by domain, or one for all"
    )
    projection_seed: NonNegativeInt = Field(default=0, description="of the signs of the projection")


class TrakWarmUpOptions(WarmUpOptions):
    """A short training of one of TRAK's networks."""

    share: float = Field(default=0.5, gt=0, le=1, description="share of the pool that each trains on; the paper: 0.5")
    epochs: PositiveInt = Field(default=1, description="passes over it; the paper trains to the end")


class TrakOptions(Options):
    """Options of ``trak``."""

    dim: PositiveInt = Field(default=4096, description="columns of the random projection, another one per network")
    networks: PositiveInt = Field(default=3, description="trainings, each on another random share of the pool")
    layers: str | None = Field(
        default=None, description="regular expression on names of linear layers; default: all but the head"
    )
    warm_up: TrakWarmUpOptions = Field(default_factory=TrakWarmUpOptions, description="the training of a network")
    damping: NonNegativeFloat = Field(
        default=0.01, description="added to the matrix that is inverted, in mean eigenvalues; the paper: 0"
    )
    projection_seed: NonNegativeInt = Field(default=0, description="of the signs of the first projection")


class UncertaintyOptions(Options):
    """Options of ``uncertainty``."""

    measure: Literal["entropy", "lead", "loss", "doubt"] = Field(
        default="entropy",
        description="entropy: of the predictions; lead: how little the likeliest outcome leads the next one; loss and "
        "doubt (1 - p): how wrong the student is about the record's own answer",
    )


class CoverageOptions(Options):
    """Options of ``coverage-centric``."""

    score: Literal["el2n", "loss"] = Field(default="el2n", description="difficulty that is cut into strata")
    strata: PositiveInt = Field(default=50, description="strata of equal width of the score; the paper: 50")
    prune_hardest: float = Field(default=0.0, ge=0, lt=1, description="share of the hardest dropped first (beta)")
    draw: NonNegativeInt = Field(default=0, description="another number, another draw with the same seed of the run")


class SemanticDedupOptions(Options):
    """Options of ``semantic-dedup``."""

    clusters: PositiveInt | None = Field(default=None, description="k-means clusters; default: square root of the pool")
    threshold: float = Field(
        default=0.05, gt=0, le=2, description="duplicates: cosine distance within a cluster below this (epsilon)"
    )
    iterations: PositiveInt = Field(default=20, description="iterations of k-means")
