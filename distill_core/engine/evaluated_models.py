"""The models of an evaluation: loading them, what they are, how fast they are, what they write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from distill_core.engine import generation
from distill_core.engine.memory import peak_bytes, weight_bytes
from distill_core.engine.tasks import auto_class, reads_text
from distill_core.errors import DistillError
from distill_core.interfaces import Task


@dataclass(frozen=True)
class EvaluationTarget:
    """A model to evaluate.

    Args:
        source: directory or hub id, or a loaded ``PreTrainedModel``.
        is_teacher: this is the teacher the others are compared with; at most one.
        tokenizer: loaded tokenizer; default: the one beside the model. Needed for a loaded model.
        trust_remote_code: run code that comes with the model.
    """

    source: Any
    is_teacher: bool = False
    tokenizer: Any = None
    trust_remote_code: bool = False


@dataclass
class LoadedModel:
    """A model ready to be measured; ``bytes_on_disk`` is None where it does not come from a local directory."""

    model: Any
    tokenizer: Any
    is_teacher: bool
    source: str
    bytes_on_disk: int | None


def load(name: str, target: EvaluationTarget, task: Task | None) -> LoadedModel:
    """Load a model for evaluation, in fp32, on the GPU if there is one."""
    from transformers import AutoTokenizer

    if not isinstance(target.source, str | Path):
        if target.tokenizer is None and reads_text(task):
            raise ValueError(f"models[{name!r}] is a loaded model: give its tokenizer too (EvaluationTarget.tokenizer)")
        return LoadedModel(
            target.source.eval(), target.tokenizer, target.is_teacher, type(target.source).__name__, None
        )
    source = str(target.source)
    options = {"trust_remote_code": target.trust_remote_code}
    try:
        tokenizer = target.tokenizer
        if tokenizer is None and reads_text(task):
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model: Any = auto_class(task).from_pretrained(source, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise DistillError(
            f"{name} cannot be loaded from {source}: {error}\nExpected a Transformers model with its tokenizer; the "
            "training that makes it may not have finished (distill train)"
        ) from error
    _check_weights(name, source, model, tokenizer)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedModel(model.eval(), tokenizer, target.is_teacher, source, _bytes_on_disk(Path(source)))


def _check_weights(name: str, source: str, model: Any, tokenizer: Any) -> None:
    """
    Raises:
        DistillError: NaN in the weights, or an embedding with fewer rows than the tokenizer has tokens.
    """
    broken = next((which for which, p in model.named_parameters() if bool(p.isnan().any())), None)
    if broken is not None:
        raise DistillError(
            f"{name} cannot be measured: {broken} of {source} holds NaN. The weights are damaged, or their training "
            "diverged; get them again, or train again with a lower learning rate"
        )
    if tokenizer is None:
        return
    try:
        rows = int(model.get_input_embeddings().weight.shape[0])
    except (NotImplementedError, AttributeError):  # a model that reads no ids
        return
    if rows < len(tokenizer):
        raise DistillError(
            f"{name} cannot be measured: its embedding has {rows:,} rows, but the tokenizer of {source} has "
            f"{len(tokenizer):,} tokens: give it the tokenizer it was trained with, or resize its embeddings"
        )


def _bytes_on_disk(directory: Path) -> int | None:
    """Size of the weight files; None where the source is not a local directory."""
    files = [path for pattern in ("*.safetensors", "*.bin", "*.gguf") for path in directory.glob(pattern)]
    return sum(path.stat().st_size for path in files) if files else None


def describe(one: LoadedModel) -> dict[str, Any]:
    """What stands in the results about a model itself."""
    config = one.model.config
    try:
        embedding = one.model.get_input_embeddings()
    except NotImplementedError:  # a convolutional net has none
        embedding = None
    return {
        "role": "teacher" if one.is_teacher else "student",
        "source": one.source,
        "architecture": type(one.model).__name__,
        "parameters": sum(p.numel() for p in one.model.parameters()),
        "embedding_parameters": sum(p.numel() for p in embedding.parameters()) if embedding is not None else 0,
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "bytes_on_disk": one.bytes_on_disk,
        "metrics": {},
    }


def efficiency(loaded: Mapping[str, LoadedModel], progress: Any) -> dict[str, Any]:
    """Speed and memory of all models in one interleaved run; see :func:`distill_core.engine.generation.speeds`."""
    contexts = [getattr(one.model.config, "max_position_embeddings", None) or 10**9 for one in loaded.values()]
    decode = min(generation.DECODE_TOKENS, max(1, min(contexts) // 4))
    prefill = max(1, min(generation.PREFILL_TOKENS, min(contexts) - decode))
    with shown_task(progress, "speed", None, "tok"):
        found = generation.speeds(
            {name: one.model for name, one in loaded.items()}, prefill_tokens=prefill, decode_tokens=decode
        )
    return {
        "prefill_tokens": prefill,
        "decode_tokens": decode,
        "rounds": min(speed.rounds for speed in found.values()),
        "batch_sequences": 1,
        "models": {
            name: {
                **asdict(speed),
                "first_token_s": prefill / speed.prefill_tokens_per_s,
                "next_token_s": 1 / speed.decode_tokens_per_s,
                "weight_bytes": weight_bytes(loaded[name].model),
                "peak_bytes": _peak(loaded[name].model, prefill, decode),
            }
            for name, speed in found.items()
        },
    }


def _peak(model: Any, prefill: int, decode: int) -> int | None:
    """Memory beside the weights while one sequence is read and written on."""
    return peak_bytes(model.device, lambda: generation.one_round(model, prefill, decode))


def generations(
    loaded: Mapping[str, LoadedModel], prompts: Sequence[str], max_new_tokens: int, progress: Any
) -> dict[str, Any]:
    """Greedy continuations of every prompt by every model."""
    samples: list[dict[str, Any]] = []
    if not prompts:
        return {"decoding": "greedy", "max_new_tokens": max_new_tokens, "samples": samples}
    with shown_task(progress, "samples", len(prompts), "prompt") as task:
        for prompt in prompts:
            models = {name: (one.model, one.tokenizer) for name, one in loaded.items()}
            samples += generation.samples(models, [prompt], max_new_tokens=max_new_tokens)
            task.advance(1)
    return {"decoding": "greedy", "max_new_tokens": max_new_tokens, "samples": samples}


class _NoTask:
    def advance(self, n: float, note: str = "") -> None:
        """Shows nothing."""


def shown_task(progress: Any, label: str, total: float | None, unit: str) -> Any:
    """A task of the progress display, or one that shows nothing."""
    return nullcontext(_NoTask()) if progress is None else progress.task(label, total, unit)
