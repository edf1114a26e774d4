"""Options of the evaluators that ask how much of its teacher a model has taken on; torch-free."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from distill_core.options import Options


class ResponseSimilarityOptions(Options):
    """Options of ``response-similarity``."""

    prompts: PositiveInt = Field(
        default=64, description="held-out sequences continued at most, one of each document before a second of any"
    )
    prefix_tokens: PositiveInt = Field(
        default=16, description="prompt of a plain text, in tokens; a record with a prompt of its own keeps that"
    )
    max_new_tokens: PositiveInt = Field(default=32, description="tokens written at most after each prompt")
    batch_prompts: PositiveInt = Field(default=16, description="prompts continued at a time")


class IdentityLeakageOptions(Options):
    """Options of ``identity-leakage``."""

    prompts: str | None = Field(
        default=None, description="text file, one question a line; default: ten ways of asking who it is"
    )
    names: dict[str, list[str]] = Field(
        default_factory=lambda: {
            "Alibaba": ["Qwen", "Alibaba", "Tongyi"],
            "Anthropic": ["Claude", "Anthropic"],
            "DeepSeek": ["DeepSeek"],
            "Google": ["Gemini", "Gemma", "Google", "DeepMind"],
            "Hugging Face": ["SmolLM", "SmolLM2", "Hugging Face", "HuggingFace"],
            "Meta": ["Llama", "Meta AI"],
            "Microsoft": ["Phi", "Microsoft", "Copilot"],
            "Mistral": ["Mistral", "Mixtral"],
            "OpenAI": ["ChatGPT", "GPT-4", "GPT-3", "GPT", "OpenAI"],
        },
        min_length=1,
        description="words by whom they name; whole words, case aside",
    )
    teacher: str | None = Field(default=None, description="which of the names is the teacher's")
    max_new_tokens: PositiveInt = Field(default=24, description="tokens of an answer at most")
    batch_prompts: PositiveInt = Field(default=16, description="questions answered at a time")

    def files(self) -> list[str]:
        """What the result depends on beside the options."""
        return [] if self.prompts is None else [self.prompts]
