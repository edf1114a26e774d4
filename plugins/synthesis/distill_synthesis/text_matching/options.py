"""Options of the synthesizers that learn texts. No torch import."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distill_core.options import Options


class LanguageModelOptions(Options):
    """A small causal language model, trained from scratch on the real texts, conditional on their class."""

    hidden_size: PositiveInt = Field(default=96, description="channels; the feed-forward layer has twice as many")
    layers: PositiveInt = Field(default=2, description="blocks")
    heads: PositiveInt = Field(default=4, description="attention heads; must divide hidden_size")
    steps: PositiveInt = Field(default=400, description="steps of Adam on the real texts")
    batch: PositiveInt = Field(default=32, description="texts per step")
    learning_rate: PositiveFloat = Field(default=3e-3, description="at first; it falls to zero linearly")

    @model_validator(mode="after")
    def _divides(self) -> LanguageModelOptions:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(
                f"hidden_size is {self.hidden_size}, heads is {self.heads}: hidden_size must be a multiple of twice "
                "the heads (rotary positions turn pairs of channels)"
            )
        return self


class TextMatchingOptions(Options):
    """What both have in common."""

    texts: PositiveInt = Field(description="synthetic texts in all, dealt evenly over the classes")
    text: str = Field(default="text", description="field of a record with the text")
    label: str = Field(default="label", description="field with the class; not written where there is no task")
    length_tokens: PositiveInt = Field(default=24, description="most tokens of a synthetic text, special ones apart")
    matched: Literal["all", "last-block", "head"] = Field(
        default="last-block",
        description="parameters whose gradients are compared: all but the token embedding, the last block and what "
        "comes after it, or the head",
    )
    networks: PositiveInt = Field(default=3, description="initial students that are matched through, held in memory")
    network_steps: NonNegativeInt = Field(
        default=60, description="steps on real texts that a student has had at most, the token embedding held"
    )
    network_states: PositiveInt = Field(
        default=3, description="states of each student between its start and network_steps, evenly spaced"
    )
    network_learning_rate: PositiveFloat = Field(default=2e-3, description="of these steps, Adam")
    real_batch: PositiveInt = Field(
        default=64, description="real texts per class and gradient, and in a step of a student; at most all there are"
    )
    distance: Literal["cosine", "l2", "l2+l1"] = Field(
        default="cosine", description="between gradients, by ops.gradient_match"
    )
    group: Literal["row", "tensor", "global"] = Field(
        default="global", description="what is one vector in the cosine: all gradients, a tensor, an output neuron"
    )
    wrong_label: Literal["drop", "keep"] = Field(
        default="drop",
        description="texts that the trained students give to another class; dropped ones are never written",
    )
    language_model: LanguageModelOptions = Field(
        default_factory=LanguageModelOptions, description="the model of the real texts"
    )
    checkpoint_iterations: PositiveInt = Field(default=5, description="iterations between two states on disk")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: the first GPU, else the CPU")


class GradientMatchingTextOptions(TextMatchingOptions):
    """Options of ``gradient-matching-text``."""

    iterations: NonNegativeInt = Field(
        default=20, description="rounds of ADMM: one network, one projection each; 0: the first texts as they are"
    )
    inner_steps: PositiveInt = Field(default=10, description="steps of Adam on the embeddings in a round")
    learning_rate: PositiveFloat = Field(
        default=0.1, description="of these steps, in units of the root mean square of the embedding table"
    )
    rho: NonNegativeFloat = Field(
        default=0.1, description="weight of the distance to tokens, per mean squared norm of the embedding table"
    )
    top_k: PositiveInt = Field(default=200, description="likeliest next tokens that a position may become")
    likelihood: Literal["auto", "student", "language-model", "none"] = Field(
        default="auto",
        description="who says which tokens are likely: the student itself (auto where it predicts the next token), the "
        "model of the real texts (auto where there is a task), or nobody",
    )
    start: Literal["real", "random"] = Field(
        default="real", description="first texts: real ones, or random tokens of the real ones' lengths"
    )
    candidates: PositiveInt = Field(default=2, description="texts learned for each that is kept")
    pool_rounds: PositiveInt = Field(default=4, description="the last so many projections are candidates")
    choose: Literal["loss", "greedy"] = Field(
        default="greedy",
        description="which candidates stay: those with the least distance one by one, or the set that is grown so that "
        "its mean gradient is nearest",
    )
    labels: Literal["hard", "soft"] = Field(
        default="hard",
        description="soft: labels are learned too, and written as one record per class with its share as `weight`",
    )
    label_learning_rate: PositiveFloat = Field(default=0.1, description="of the labels' logits, Adam")
    least_share: float = Field(default=0.05, gt=0, lt=0.5, description="smaller shares of a soft label are left out")
    attention_labels: Literal["none", "last-block", "all"] = Field(
        default="none",
        description="what the place of the class attends to is learned too, in the last block or in all, and written "
        "as `attention` for the objective attention-labels",
    )
    attention_weight: PositiveFloat = Field(
        default=1.0, description="of the divergence of attentions beside the cross-entropy of a synthetic text"
    )
    attention_learning_rate: PositiveFloat = Field(default=0.1, description="of the attention labels' logits, Adam")

    @model_validator(mode="after")
    def _attention_counts(self) -> GradientMatchingTextOptions:
        seen = {"head": ("none",), "last-block": ("none", "last-block"), "all": ("none", "last-block", "all")}
        if self.attention_labels not in seen[self.matched]:
            raise ValueError(
                f"attention_labels is {self.attention_labels}, matched is {self.matched}: an attention label "
                "has no part in gradients of what comes after its block; use matched: all, or attention_labels: "
                "last-block with matched: last-block"
            )
        return self


class GeneratorMatchingOptions(TextMatchingOptions):
    """Options of ``generator-matching``."""

    matched: Literal["all", "last-block", "head"] = Field(
        default="head", description="parameters whose gradients are compared; see gradient-matching-text"
    )
    iterations: NonNegativeInt = Field(
        default=60, description="steps of Adam on the generator by matching; 0: its samples as they are"
    )
    learning_rate: PositiveFloat = Field(default=3e-4, description="of these steps")
    samples: PositiveInt = Field(default=32, description="generated texts per class that a gradient is made of")
    refresh_iterations: PositiveInt = Field(default=10, description="steps between two generations of these texts")
    weight_temperature: PositiveFloat = Field(
        default=1.0, description="of the softmax over mean log-likelihoods that weighs the texts"
    )
    language_share: float = Field(default=0.1, ge=0, lt=1, description="share of the language modelling loss")
    top_p: float = Field(default=0.95, gt=0, le=1, description="texts are drawn from the likeliest tokens of this mass")
    candidates: PositiveInt = Field(default=8, description="texts drawn at the end for each that is kept")
    choose: Literal["k-center", "greedy", "loss", "random"] = Field(
        default="k-center", description="which of these stay, class by class"
    )
