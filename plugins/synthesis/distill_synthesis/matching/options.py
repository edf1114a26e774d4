"""Options of the synthesizers that learn images. No torch import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from distill_core.options import Options

AugmentationName = Literal["brightness", "saturation", "contrast", "crop", "cutout", "flip", "scale", "rotate"]


class ImageFields(Options):
    """Where a record has its image, and of which size flat ones are."""

    image: str = Field(default="image", description="field of a record with the image: bytes 0 .. 255")
    label: str = Field(default="label", description="field with the class")
    labels: list[str] | None = Field(
        default=None,
        min_length=2,
        description="all classes, each of which must have a record; default: those there are",
    )
    height: PositiveInt | None = Field(default=None, description="pixels; needed where images are flat lists")
    width: PositiveInt | None = Field(default=None, description="pixels; needed where images are flat lists")

    @field_validator("labels", mode="before")
    @classmethod
    def _texts(cls, labels: object) -> object:
        """YAML reads ``[0, 1]`` as numbers."""
        return [str(one) if isinstance(one, int) else one for one in labels] if isinstance(labels, list) else labels

    @model_validator(mode="after")
    def _both_sides(self) -> ImageFields:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width belong together: give both, or neither")
        return self


class NetworkOptions(Options):
    """The convolutional network of the literature: blocks of conv 3x3, instance norm, ReLU, average pool."""

    depth: PositiveInt = Field(default=3, description="blocks; every block halves height and width")
    width: PositiveInt = Field(default=128, description="channels of every block")
    first_padding: NonNegativeInt = Field(
        default=1,
        description="zeros around the image in the first block; DC uses 3, which makes 28 x 28 into 32 x 32",
    )


class LatentOptions(Options):
    """The latent space that images are learned in."""

    width: PositiveInt = Field(default=32, description="numbers that stand for an image")
    hidden: PositiveInt = Field(default=256, description="units between them and the pixels")
    epochs: PositiveInt = Field(default=30, description="passes of the autoencoder over the real images")
    batch: PositiveInt = Field(default=64, description="images per step of the autoencoder")
    prior: NonNegativeFloat = Field(
        default=0.0,
        description="times half the mean square of the codes, added to the loss: keeps them where images are",
    )


class MatchingOptions(ImageFields):
    """What all of them have in common."""

    images_per_class: PositiveInt = Field(description="synthetic images of every class")
    iterations: PositiveInt = Field(default=1000, description="steps of the images")
    network: NetworkOptions = Field(default_factory=NetworkOptions, description="the network that is matched through")
    latent: LatentOptions | None = Field(
        default=None,
        description="learn codes of a generator of images instead of pixels; it is trained on the real images first",
    )
    start: Literal["noise", "random", "herding", "mean"] = Field(
        default="random", description="first images: noise, real ones at random or by herding, or class means"
    )
    learning_rate: PositiveFloat = Field(default=0.1, description="of the images, whose pixels have mean 0 and std 1")
    momentum: float = Field(default=0.5, ge=0, lt=1, description="of the images' gradient descent")
    decay: Literal["none", "cosine"] = Field(
        default="none",
        description="of learning_rate: cosine lets it fall to zero, which averages noise out",
    )
    step: Literal["gradient", "unit"] = Field(
        default="gradient",
        description="unit: the images' gradient is scaled to length 1, so that learning_rate is a distance in pixels",
    )
    real_batch: PositiveInt = Field(default=256, description="real images per class and step; at most all there are")
    augmentations: list[AugmentationName] = Field(
        default_factory=list,
        description="differentiable ones, one drawn per step, the same for real and synthetic images (siamese)",
    )
    checkpoint_iterations: PositiveInt = Field(
        default=20, description="steps between two states on disk; an interruption loses at most so many"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: the GPU if there is one")

    @classmethod
    def example_records(cls) -> list[dict[str, Any]]:
        """Images of 8 x 8 pixels in two classes, for the conformance kit."""
        return [
            {
                "image": [[(row * column * (number + 2)) % 256 for column in range(8)] for row in range(8)],
                "label": "ab"[number % 2],
                "document": f"image-{number}",
            }
            for number in range(6)
        ]


class GradientMatchingOptions(MatchingOptions):
    """Options of ``gradient-matching``."""

    distance: Literal["cosine", "l2", "l2+l1"] = Field(default="cosine", description="between two gradients")
    group: Literal["row", "tensor", "global"] = Field(
        default="row", description="what is one vector in the cosine: an output neuron, a tensor, or all"
    )
    eps: PositiveFloat = Field(default=1e-6, description="in the cosine's denominator")
    eps_mode: Literal["added", "clamp"] = Field(
        default="added", description="added: to the product of the norms, as in DC; clamp: least norm of a vector"
    )
    second_order: Literal["double-backward", "central-difference", "forward-over-reverse"] = Field(
        default="double-backward", description="how the gradient of a function of gradients is taken"
    )
    network_steps: PositiveInt = Field(
        default=1, description="matchings along the training of one network (DC: 1 at 1 image per class, 10 at 10)"
    )
    network_epochs: PositiveInt = Field(
        default=1, description="steps of the network on the synthetic images between two matchings (DC: 50 at 10)"
    )
    network_learning_rate: PositiveFloat = Field(default=0.01, description="of the network")
    network_momentum: float = Field(default=0.5, ge=0, lt=1, description="of the network")
    classes: Literal["apart", "together"] = Field(
        default="apart", description="whose gradient is matched: that of each class (DC), or that of all classes"
    )


class DistributionMatchingOptions(MatchingOptions):
    """Options of ``distribution-matching``."""

    learning_rate: PositiveFloat = Field(default=1.0, description="of the images, whose pixels have mean 0 and std 1")


class TrajectoryMatchingOptions(MatchingOptions):
    """Options of ``trajectory-matching``."""

    learning_rate: PositiveFloat = Field(default=100.0, description="of the images, whose pixels have mean 0 and std 1")
    experts: PositiveInt = Field(default=10, description="networks trained on the real images, kept on disk")
    expert_epochs: PositiveInt = Field(default=20, description="epochs of each; parameters are kept after every one")
    expert_learning_rate: PositiveFloat = Field(default=0.05, description="of the experts, without momentum")
    expert_batch: PositiveInt = Field(default=64, description="images per step of the experts")
    student_steps: PositiveInt = Field(default=10, description="steps on the synthetic images that are unrolled")
    matched_epochs: PositiveInt = Field(default=2, description="expert epochs that these steps have to cover")
    latest_start: NonNegativeInt = Field(default=8, description="latest epoch of an expert to start from")
    step_size: PositiveFloat = Field(default=0.02, description="of the student's steps at first; it is learned")
    step_size_rate: float = Field(default=0.1, ge=0, description="learning rate of that size's logarithm; 0: fixed")

    def problems(self) -> list[str]:
        """Starts whose end no expert reaches."""
        if self.latest_start + self.matched_epochs > self.expert_epochs:
            return [
                f"latest_start: epoch {self.latest_start} and {self.matched_epochs} matched_epochs end beyond the "
                f"{self.expert_epochs} expert_epochs: start earlier, or train the experts longer"
            ]
        return []


class PerformanceMatchingOptions(MatchingOptions):
    """Options of ``performance-matching``."""

    learning_rate: PositiveFloat = Field(default=0.3, description="how far the images move together, with step: unit")
    step: Literal["gradient", "unit"] = Field(
        default="unit",
        description="unit: the images' gradient is scaled to length 1; through many steps its size says little",
    )
    student_steps: PositiveInt = Field(default=30, description="steps on the synthetic images that are unrolled")
    step_size: PositiveFloat = Field(default=0.1, description="of the student's steps, without momentum")


class KernelRegressionOptions(MatchingOptions):
    """Options of ``kernel-regression``."""

    learning_rate: PositiveFloat = Field(default=30.0, description="of the images, whose pixels have mean 0 and std 1")
    ridge: PositiveFloat = Field(default=1e-3, description="of the regression, times the mean of the kernel's diagonal")
    latest_training: NonNegativeInt = Field(
        default=50, description="steps on the synthetic images that the feature network has had: 0 to this, drawn"
    )
    network_learning_rate: PositiveFloat = Field(default=0.01, description="of that network, momentum 0.9")
