"""Where a student comes from: a model, a config, or layers of the teacher; and how it is loaded for training.

Whatever the way, the result is a normal Transformers directory (safetensors and tokenizer) that
``AutoModelForCausalLM.from_pretrained``, or the auto class of the run's task, loads.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, set_seed

from distill_core.config import PeftSection, StudentConfig
from distill_core.engine.checkpoints import whole_directory
from distill_core.engine.head import decoder_of
from distill_core.engine.narrow import narrow
from distill_core.engine.tasks import auto_class, label_fields, reads_text
from distill_core.errors import TrainingError

if TYPE_CHECKING:
    from distill_core.interfaces import Task

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def initialise_student(
    config: StudentConfig, *, teacher_source: str | None, directory: Path, seed: int, task: Task | None = None
) -> Path:
    """Write the student before training to ``directory`` and return that.

    Args:
        config: the run file's ``student`` section.
        teacher_source: a directory or hub id of the teacher that ``from_pretrained`` loads; needed by
            ``init.from_teacher``, and for the tokenizer of a student made from a config.
        directory: where it is written, whole or not at all.
        seed: for random weights.
        task: what it predicts; None: the next token.

    Raises:
        TrainingError: a source that cannot be loaded, a layer that does not exist, a model that cannot be cut.
    """
    model, tokenizer = _initial(config, teacher_source=teacher_source, seed=seed, task=task)
    with whole_directory(directory) as temporary, without_progress_bars():
        model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
    return directory


def new_student(config: StudentConfig, *, teacher_source: str | None, seed: int, task: Task | None = None) -> Any:
    """What :func:`initialise_student` writes for a seed, in memory: fp32; the random state of torch stays as it was.

    Raises:
        TrainingError: as there.
    """
    given = config.model_copy(update={"dtype": "float32"})
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        model, _ = _initial(given, teacher_source=teacher_source, seed=seed, task=task)
    return model.float()


def _initial(config: StudentConfig, *, teacher_source: str | None, seed: int, task: Task | None) -> tuple[Any, Any]:
    """The model before training, and its tokenizer."""
    init = config.init
    set_seed(seed)
    source: str | None
    if init.from_teacher is not None:
        if teacher_source is None:
            raise TrainingError(
                "student.init.from_teacher: the teacher is no Transformers model whose layers could be taken; use "
                "student.init.model or student.init.config"
            )
        teacher = load_model(teacher_source, config, task)
        model = keep_layers(teacher, init.from_teacher.layers)
        if init.from_teacher.width is not None:
            model = narrow(model, init.from_teacher.width)
        source = teacher_source
    elif init.model is not None:
        model, source = load_model(init.model, config, task), init.model
    else:
        assert init.config is not None
        model, source = None, teacher_source
    tokenizer = _tokenizer_for(task, config.tokenizer or source, config)
    if model is None:
        model = _from_config(dict(init.config or {}), tokenizer, config, task)
    return model, tokenizer


def _tokenizer_for(task: Task | None, source: str | None, config: StudentConfig) -> Any:
    """The tokenizer, or None for a task that reads no text."""
    if not reads_text(task):
        return None
    if source is None:
        raise TrainingError(
            "student.tokenizer: needed, because student.init.config brings none and there is no teacher"
        )
    return load_tokenizer(source, config)


def load_model(source: str, config: StudentConfig, task: Task | None = None) -> Any:
    """The model as it is stored (``dtype: auto``) or in the dtype of the config; a task's classes get their labels.

    A source without a classifier of that size gets a new one, from the seed.

    Raises:
        TrainingError: it cannot be loaded, or is quantised.
    """
    try:
        with without_progress_bars():
            model = auto_class(task).from_pretrained(
                source,
                dtype=DTYPES.get(config.dtype, "auto"),
                trust_remote_code=config.trust_remote_code,
                **({} if task is None else {**label_fields(task), "ignore_mismatched_sizes": True}),
            )
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"the model {source} cannot be loaded: {error}") from error
    if getattr(model, "hf_quantizer", None) is not None or getattr(model.config, "quantization_config", None):
        raise TrainingError(
            f"the model {source} is quantised; a student is trained on unquantised weights: give an unquantised model"
        )
    return model


def load_tokenizer(source: str, config: StudentConfig) -> Any:
    """The tokenizer of a directory or hub id.

    Raises:
        TrainingError: it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"the tokenizer {source} cannot be loaded: {error}; set student.tokenizer") from error


def _from_config(fields: Mapping[str, Any], tokenizer: Any, config: StudentConfig, task: Task | None) -> Any:
    """Random weights; ``vocab_size`` defaults to the tokenizer's size, classes are those of the task."""
    given = {**fields, **({} if task is None else label_fields(task))}
    if tokenizer is not None:
        given.setdefault("vocab_size", len(tokenizer))
        if task is not None and tokenizer.pad_token_id is not None:
            given.setdefault("pad_token_id", tokenizer.pad_token_id)
    try:
        model_config = AutoConfig.for_model(given.pop("model_type"), **given)
        model = auto_class(task).from_config(model_config, dtype=DTYPES.get(config.dtype, torch.float32))
    except (ValueError, TypeError, KeyError) as error:
        what = "causal language model" if task is None else f"model that {task.architecture} knows"
        raise TrainingError(f"student.init.config makes no {what}: {error}") from error
    if tokenizer is None:
        return model
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise TrainingError(
            f"student.init.config.vocab_size is {rows}, but the tokenizer has {len(tokenizer)} tokens: use that"
        )
    return model


def keep_layers(teacher: Any, layers: Sequence[int]) -> Any:
    """A new model made of some decoder layers of another, everything else copied.

    The layers are found generically (the one list of ``num_hidden_layers`` modules in the decoder); lists in the config
    with one entry per layer (``layer_types`` and the like) are cut alike. Every weight of the result is a copy: nothing
    is left at random, or the model is refused.

    Args:
        teacher: a ``PreTrainedModel``.
        layers: indices from 0, in the order they stand in the student; a layer may be taken twice.

    Raises:
        TrainingError: an index out of range, or an architecture whose weights do not carry over one to one.
    """
    name = type(teacher).__name__
    prefix, depth = _layer_list(teacher)
    wrong = [layer for layer in layers if not 0 <= layer < depth]
    if wrong:
        raise TrainingError(
            f"student.init.from_teacher.layers: {wrong} is out of range, {name} has the layers 0 .. {depth - 1}"
        )
    student_config = copy.deepcopy(teacher.config)
    _cut_config(student_config.get_text_config(), layers, depth)
    student = type(teacher)._from_config(student_config, dtype=teacher.dtype)
    source = teacher.state_dict()
    wanted = student.state_dict()
    cut: dict[str, Tensor] = {}
    for key in wanted:
        if key.startswith(f"{prefix}."):
            index, _, rest = key.removeprefix(f"{prefix}.").partition(".")
            origin = f"{prefix}.{layers[int(index)]}.{rest}"
        else:
            origin = key
        if origin not in source or source[origin].shape != wanted[key].shape:
            raise TrainingError(
                f"{name} cannot be cut to the layers {list(layers)}: the student's {key} has no counterpart {origin} "
                "of the same shape; layers of this architecture are not interchangeable, choose others"
            )
        cut[key] = source[origin]
    student.load_state_dict(cut, strict=True)
    if hasattr(teacher, "generation_config"):  # a classifier writes nothing
        student.generation_config = copy.deepcopy(teacher.generation_config)
    return student


def _layer_list(model: Any) -> tuple[str, int]:
    """Qualified name and length of the list of decoder layers."""
    depth = int(model.config.get_text_config().num_hidden_layers)
    decoder = decoder_of(model) if model.get_output_embeddings() is not None else model.base_model
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == depth
        and any(module is inner for inner in decoder.modules())
    ]
    outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if len(outermost) != 1:
        raise TrainingError(
            f"{type(model).__name__} cannot be cut: expected one list of its {depth} decoder layers, found "
            f"{outermost or 'none'}"
        )
    return outermost[0], depth


def _cut_config(config: Any, layers: Sequence[int], depth: int) -> None:
    """Keep the entries of the chosen layers in every per-layer list, in place."""
    per_layer = {
        key: value for key, value in vars(config).items() if isinstance(value, (list, tuple)) and len(value) == depth
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # between the assignments the lengths disagree
        config.num_hidden_layers = len(layers)
        for key, value in per_layer.items():
            if not key.startswith("_") and key != "architectures":
                setattr(config, key, type(value)(value[layer] for layer in layers))


def load_student(directory: Path | str, config: StudentConfig, task: Task | None = None) -> Any:
    """The student for training: fp32 weights unless ``student.dtype`` says otherwise, with LoRA adapters if asked for.

    Raises:
        TrainingError: it cannot be loaded, or ``peft`` is not installed.
    """
    dtype = DTYPES.get(config.dtype, torch.float32)
    model = load_model(str(directory), config, task).to(dtype)
    return model if config.peft is None else _with_adapters(model, config.peft)


def _with_adapters(model: Any, section: PeftSection) -> Any:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise TrainingError("student.peft needs the package peft: pip install 'distill-core[peft]'") from error
    lora = LoraConfig(
        r=section.r,
        lora_alpha=section.alpha,  # type: ignore[arg-type]  # any positive number scales
        lora_dropout=section.dropout,
        target_modules=section.target_modules,
        task_type=TaskType.CAUSAL_LM,
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        raise TrainingError(f"student.peft.target_modules: {error}") from error


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No bars of Transformers for loading and saving: a run shows its own."""
    logging: Any = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
