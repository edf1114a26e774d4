"""Tasks: where a student predicts classes, not the next token. What it is loaded as, and whom it may learn from.

Class ids stand for the labels of the task, in its order; that list, with the tokenizer that reads the text, is the
vocabulary that teacher and student must share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distill_core.errors import TrainingError, VocabularyError
from distill_core.store.tokenizer import classes_info

if TYPE_CHECKING:
    from distill_core.interfaces import Task, Teacher

CAUSAL_LM = "AutoModelForCausalLM"
"""The auto class of Transformers for a run without a task."""


def auto_class(task: Task | None) -> Any:
    """The auto class of Transformers that loads the student.

    Raises:
        TrainingError: the task names none that this version of Transformers has.
    """
    import transformers

    name = CAUSAL_LM if task is None else task.architecture
    found = getattr(transformers, name, None)
    if found is None:
        raise TrainingError(
            f"the task {type(task).__name__} asks for transformers.{name}, which does not exist in Transformers "
            f"{transformers.__version__}; expected an auto class such as AutoModelForSequenceClassification"
        )
    return found


def reads_text(task: Task | None) -> bool:
    """Whether there is a tokenizer: a task that makes the model's inputs itself reads no text."""
    return task is None or getattr(task, "inputs", None) is None


def label_fields(task: Task) -> dict[str, Any]:
    """Fields of a Transformers config that name the classes."""
    return {
        "num_labels": len(task.labels),
        "id2label": dict(enumerate(task.labels)),
        "label2id": {label: index for index, label in enumerate(task.labels)},
    }


def labels_of(config: Any) -> tuple[str, ...]:
    """The classes of a classifier by its Transformers config, in the order of their ids."""
    return tuple(str(config.id2label[index]) for index in range(int(config.num_labels)))


def with_labels(teacher: Teacher, task: Task, tokenizer: Any) -> tuple[Teacher, str]:
    """The teacher, if its classes and its tokenizer are those of the task, and a sentence that says so.

    Raises:
        VocabularyError: they differ; nothing bridges that.
    """
    own, theirs = classes_info(task.labels, tokenizer), teacher.vocabulary()
    if own.fingerprint == theirs.fingerprint:
        return teacher, f"teacher and student share {own.size} classes ({own.fingerprint[:8]})"
    offered = getattr(teacher, "labels", None)
    name = theirs.name or teacher.identity()
    if callable(offered):
        labels = tuple(offered())
        if labels != tuple(task.labels):
            raise VocabularyError(_other_labels(name, labels, task.labels))
        raise VocabularyError(
            f"the teacher {name} has the labels of the task, but its tokenizer is not the student's: it would read "
            "other text from the same ids. Give the student the teacher's tokenizer (student.tokenizer)"
        )
    raise VocabularyError(
        f"the teacher {name} answers over {theirs.size} classes or tokens (fingerprint {theirs.fingerprint[:8]}), the "
        f"task has {own.size} labels (fingerprint {own.fingerprint[:8]}): labels, their order, or the tokenizer "
        "differ. Capture again with this task, or use a teacher of kind hf-classifier trained on these labels"
    )


def _other_labels(name: str, theirs: Sequence[str], own: Sequence[str]) -> str:
    if sorted(theirs) == sorted(own):
        what = "the same labels in another order"
    else:
        missing, foreign = sorted(set(own) - set(theirs)), sorted(set(theirs) - set(own))
        what = f"other labels (not the teacher's: {missing[:5]}; not the task's: {foreign[:5]})"
    return (
        f"the teacher {name} has {what}: received {list(theirs)[:5]} ..., the task has {list(own)[:5]} .... The same "
        "class id would mean something else; put task.labels in the order of the teacher's config.id2label, or train a "
        "teacher on these labels"
    )
