"""What a run file says about its costs: models, lengths, batches, captures. No torch where headers say the sizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_core.errors import DistillError
from distill_core.planning.model_files import config_shape, model_shape
from distill_core.planning.shape import ModelShape

if TYPE_CHECKING:
    from distill_core.config import RunConfig
    from distill_core.engine.run_file.validate import CheckedRun


def of_run(checked: CheckedRun, *, tokens: float | None = None) -> dict[str, Any]:
    """Arguments of a :class:`~distill_core.planning.request.Request`, from a run file that passed.

    Args:
        checked: the run file.
        tokens: tokens over all epochs, where they are known better than the run file says.

    Raises:
        DistillError: a model's files cannot be read, or the number of tokens does not follow from the run file.
    """
    config, assumptions = checked.config, list[str]()
    teacher = teacher_shape(checked, assumptions)
    student = student_shape(config, teacher)
    seen, epochs = _tokens(config, tokens, assumptions)
    train, peft = config.train, config.student.peft
    if peft is not None and peft.target_modules != "all-linear":
        assumptions.append(
            "student: adapters counted on every linear layer, though student.peft.target_modules names some"
        )
    precision = "float32" if train.precision == "auto" else train.precision
    if train.precision == "auto":
        assumptions.append("train.precision auto: counted as float32; a GPU with bfloat16 needs less")
    return {
        "student": student,
        "teacher": teacher,
        "tokens": seen,
        "epochs": epochs,
        "students": sum(one.teacher != "none" for one in config.trainings().values()) or 1,
        "batch": train.batch_sequences,
        "sequence": config.data.sequence_length_tokens,
        "accumulation": train.accumulation_steps,
        "dtype": "float32" if config.student.dtype == "auto" else config.student.dtype,
        "precision": precision,
        "checkpointing": train.gradient_checkpointing,
        "chunk_rows": train.chunk_rows,
        "lora_rank": None if peft is None else peft.r,
        "live": train.teacher == "live",
        "from_scratch": config.student.init.config is not None,
        "captures": tuple((capture.method, capture.k) for capture in config.captures),
        "assumptions": tuple(assumptions),
    }


def teacher_shape(checked: CheckedRun, assumptions: list[str]) -> ModelShape | None:
    """Sizes of the first teacher; its component's options say which files it reads. None: no teacher with a model."""
    references = {
        location: found for location, found in checked.components.items() if location[0] in ("teacher", "teachers")
    }
    if not references:
        return None
    if len(references) > 1:
        assumptions.append(f"{len(references)} teachers: the first one is counted")
    location, resolved = next(iter(references.items()))
    files = getattr(resolved.options, "files", None)
    for source in files() if files is not None else []:
        return model_shape(source, label="teacher")
    assumptions.append(f"{'.'.join(map(str, location))}: a teacher of no model files, whose compute is not counted")
    return None


def student_shape(config: RunConfig, teacher: ModelShape | None) -> ModelShape:
    """Sizes of the student, whatever it starts from."""
    init = config.student.init
    if init.model is not None:
        return model_shape(init.model, label="student")
    if init.from_teacher is not None:
        if teacher is None:
            raise DistillError("student.init.from_teacher: the teacher's sizes are not known; give --student")
        cut, width = teacher.with_layers(len(init.from_teacher.layers)), init.from_teacher.width
        if width is None:
            return cut
        return cut.with_width(width.hidden_size, width.intermediate_size, width.key_value_heads)
    fields: Mapping[str, Any] = init.config or {}
    if "vocab_size" not in fields and teacher is not None:
        fields = {**fields, "vocab_size": teacher.vocabulary}
    return config_shape(fields, label="student")


def _tokens(config: RunConfig, given: float | None, assumptions: list[str]) -> tuple[float, float]:
    """Tokens over all epochs, and the epochs."""
    train, data = config.train, config.data
    once = _measured(config)
    if once is None and data.train.limit_sequences is not None:
        once = float(data.train.limit_sequences * data.sequence_length_tokens)
        assumptions.append("data: every sequence counted as full, data.train.limit_sequences of them")
    per_step = train.batch_sequences * train.accumulation_steps * data.sequence_length_tokens
    if given is None and train.max_steps is not None:
        given = float(train.max_steps * per_step)
        assumptions.append("data: every sequence counted as full, train.max_steps steps of them")
    if given is None and once is None:
        raise DistillError(
            "how many tokens the student sees does not follow from the run file: give --tokens, or set train.max_steps "
            "or data.train.limit_sequences; after `distill run` the data are known"
        )
    if given is None:
        assert once is not None
        return once * train.epochs, max(train.epochs, 1.0)
    return given, max(train.epochs if once is None else given / once, 1.0)


def _measured(config: RunConfig) -> float | None:
    """Tokens of the training data, if the run's data stage has counted them."""
    output = Path(config.output_dir).expanduser()
    path = (output / "data" / "train" if config.select is None else output / "select") / "data.json"
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
