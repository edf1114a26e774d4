"""Options of the first-party teachers. No torch import."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from distill_core.engine.run_file.models_on_disk import looks_local
from distill_core.errors import DistillError
from distill_core.options import ModelSource, Options
from distill_core.plugin import Provides
from distill_teachers.gguf_location import locate_gguf

if TYPE_CHECKING:
    from distill_core.store import StoreMeta


class HFOptions(Options):
    """Options of ``hf``: one of ``model``, ``gguf_file`` and ``gguf_package`` says where the weights are."""

    model: ModelSource | None = Field(
        default=None,
        description="directory or hub id of a Transformers causal language model, or package:NAME/DIRECTORY",
    )
    gguf_file: str | None = Field(
        default=None, description="path of a GGUF file; with gguf_package: the name of one of its files"
    )
    gguf_package: str | None = Field(default=None, description="installed Python package that ships a GGUF file")
    revision: str | None = Field(default=None, description="hub revision: branch, tag or commit")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU that has it, float32 elsewhere"
    )
    device: str = Field(
        default="auto", description="auto: the first GPU, else the CPU; or a torch device such as cuda:1"
    )
    quantization: Literal["8bit", "4bit"] | None = Field(
        default=None,
        description="weights of linear layers but the head kept by bitsandbytes in so many bits (4bit: nf4); needs "
        "`pip install 'distill-teachers[bitsandbytes]'`",
    )
    layers: list[NonNegativeInt] | None = Field(
        default=None, min_length=1, description="keep only these decoder layers, from 0: a thinned model; default: all"
    )
    trust_remote_code: bool = Field(default=False, description="run Python code that comes with the model")
    cache_dir: str | None = Field(
        default=None, description="where converted GGUF models and downloads go; default: DISTILL_CACHE or ~/.cache"
    )
    generation_batch: PositiveInt = Field(default=16, description="answers written at a time, with one cache")

    @model_validator(mode="after")
    def _one_place(self) -> HFOptions:
        gguf = self.gguf_file is not None or self.gguf_package is not None
        if (self.model is None) != gguf:
            given = [n for n in ("model", "gguf_file", "gguf_package") if getattr(self, n) is not None]
            raise ValueError(
                f"say where the weights are, in one place: model, or gguf_package / gguf_file; given: {given or 'none'}"
            )
        if self.revision is not None and gguf:
            raise ValueError("revision belongs to a hub id (model); a GGUF file is known by its content")
        return self

    def problems(self) -> list[str]:
        """Files and packages that are missing on this machine."""
        lacking = []
        if self.quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
            lacking = [
                f"quantization: {self.quantization} needs the package bitsandbytes: pip install "
                "'distill-teachers[bitsandbytes]', or leave quantization out"
            ]
        return lacking + self._missing_files()

    def _missing_files(self) -> list[str]:
        if self.model is not None:
            path = Path(self.model).expanduser()
            if self.model.startswith((".", "/", "~")) and not path.is_dir():
                return [f"model: there is no directory {path}; give a directory or a hub id"]
            if path.is_dir() and not (path / "config.json").is_file():
                return [f"model: {path} holds no config.json, so it is no Transformers model directory"]
            return []
        try:
            locate_gguf(package=self.gguf_package, file=self.gguf_file)
        except DistillError as error:
            return [str(error)]
        return []

    def files(self) -> list[str]:
        """What a run reads of this machine: its content belongs to the fingerprint of what is made with it."""
        if self.model is not None:
            return [self.model]
        return [str(locate_gguf(package=self.gguf_package, file=self.gguf_file))]


class HFClassifierOptions(Options):
    """Options of ``hf-classifier``."""

    model: ModelSource = Field(
        description="directory or hub id of a Transformers classifier, or package:NAME/DIRECTORY of a Python package"
    )
    revision: str | None = Field(default=None, description="hub revision: branch, tag or commit")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on a GPU that has it, float32 elsewhere"
    )
    device: str = Field(default="auto", description="auto: the first GPU, else the CPU; or a torch device")
    trust_remote_code: bool = Field(default=False, description="run Python code that comes with the model")

    def problems(self) -> list[str]:
        """A directory that is missing on this machine."""
        path = Path(self.model).expanduser()
        if looks_local(self.model) and not path.is_dir():
            return [f"model: there is no directory {path}; train the teacher first, or give a hub id"]
        if path.is_dir() and not (path / "config.json").is_file():
            return [f"model: {path} holds no config.json, so it is no Transformers model directory"]
        return []

    def files(self) -> list[str]:
        """What a run reads of this machine."""
        return [self.model]


class StoreOptions(Options):
    """Options of ``store``."""

    path: str = Field(description="directory of a finished store")

    def problems(self) -> list[str]:
        """A store that is missing or cannot be read."""
        try:
            self._meta()
        except DistillError as error:
            return [f"path: {error}"]
        return []

    def provides(self, declared: Provides) -> Provides:
        """What the store holds."""
        try:
            meta = self._meta()
        except DistillError:
            return declared
        return replace(declared, targets=(meta.kind,), temperatures=meta.temperatures)

    def _meta(self) -> StoreMeta:
        from distill_core.store import StoreReader

        return StoreReader(Path(self.path).expanduser(), checksums=False).meta


class EMAOptions(Options):
    """Options of ``ema``."""

    decay: float = Field(default=0.99, ge=0, lt=1, description="share of the average that an update keeps")
    warmup: bool = Field(
        default=True, description="keep less at first: at most (1 + u) / (10 + u) after u updates of the average"
    )
    every_steps: int = Field(default=1, ge=1, description="optimizer steps between updates of the average")
    model: str | None = Field(
        default=None, description="directory or hub id the average starts from; default: the initial student"
    )

    def problems(self) -> list[str]:
        """A start model that is missing on this machine."""
        return [] if self.model is None else HFOptions(model=self.model).problems()

    def files(self) -> list[str]:
        """What a run reads of this machine."""
        return [] if self.model is None else [self.model]


class AnswersOptions(Options):
    """Options of ``answers``."""

    path: str = Field(description="JSONL file: one object with id or prompt, and answer, per line")
    id_field: str = Field(default="id", description="name of the field with the question's id")
    prompt_field: str = Field(default="prompt", description="name of the field with the question's text")
    answer_field: str = Field(default="answer", description="name of the field with the answer")

    def problems(self) -> list[str]:
        """A file that is not there."""
        path = Path(self.path).expanduser()
        return [] if path.is_file() else [f"path: there is no file {path}; give a JSONL file of answers"]

    def files(self) -> list[str]:
        """What a run reads of this machine."""
        return [self.path]


class VLLMOptions(Options):
    """Options of ``vllm``."""

    model: str = Field(description="directory or hub id")
    revision: str | None = Field(default=None, description="hub revision: branch, tag or commit")
    dtype: str = Field(default="auto", description="as vllm.LLM takes it")
    top_logprobs: PositiveInt = Field(default=20, description="most log-probabilities listed per token")
    engine: dict[str, Any] = Field(default_factory=dict, description="further arguments of vllm.LLM, as they are")

    def problems(self) -> list[str]:
        """vLLM that is not installed."""
        if importlib.util.find_spec("vllm") is None:
            return [
                "the teacher vllm needs the package vllm: pip install vllm (Linux, a supported GPU), or use the "
                "teacher hf, or openai with a vLLM server"
            ]
        return []
