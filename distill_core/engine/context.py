"""What the stages of one run share: the config, the directories, the teachers and the tokenizer, loaded once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_core.config import RunConfig
from distill_core.errors import DistillError

if TYPE_CHECKING:
    from distill_core.engine.data import TokenDataset
    from distill_core.engine.plan import Plan
    from distill_core.engine.progress import Progress
    from distill_core.registry import Registry


class RunContext:
    """One run under way; also what observer hooks are given as ``run``.

    Args:
        plan: its stages.
        registry: builds components.
        progress: shows progress and messages.
    """

    def __init__(self, plan: Plan, *, registry: Registry, progress: Progress) -> None:
        self.plan, self.registry, self.progress = plan, registry, progress
        self.config: RunConfig = plan.config
        self.name = plan.config.name
        self.directory = plan.directory
        self.damaged: set[str] = set()  # stages whose output was changed since they finished
        self._teachers: dict[str, Any] = {}
        self._tokenizer: Any = None
        self._task: Any = None

    def path(self, stage: str) -> Path:
        """The directory of a stage, e.g. of ``capture:main``."""
        return self.directory / self.plan[stage].directory

    def teacher(self, name: str | None = None) -> Any:
        """A live teacher of the run file by name (default: the first), built once."""
        if not self.config.all_teachers:
            raise DistillError("the run file names no teacher: add a `teacher:` section")
        name = next(iter(self.config.all_teachers)) if name is None else name
        if name not in self._teachers:
            self._teachers[name] = self.registry.build("teacher", self.config.all_teachers[name])
        return self._teachers[name]

    def teacher_source(self, name: str | None = None) -> str | None:
        """Where ``from_pretrained`` finds a teacher (default: the first); None if there is none or it is no model."""
        if not self.config.all_teachers:
            return None
        pretrained = getattr(self.teacher(name), "pretrained", None)
        return None if pretrained is None else str(pretrained())

    @property
    def task(self) -> Any:
        """What students predict, built once; None: the next token."""
        if self._task is None and self.config.task is not None:
            self._task = self.registry.build("task", self.config.task)
        return self._task

    def dataset(self, split: str) -> TokenDataset:
        """The sequences of ``train`` (the selected ones, where there is a selection), ``eval`` or ``target``."""
        return self._opened("select" if split == "train" and self.config.select is not None else f"data:{split}")

    def prepared(self, split: str) -> TokenDataset:
        """All prepared sequences of a split: of ``train``, the pool that a selection chooses from."""
        return self._opened(f"data:{split}")

    def _opened(self, stage: str) -> TokenDataset:
        from distill_core.engine.data import TokenDataset

        return TokenDataset.open(self.path(stage), inputs=getattr(self.task, "inputs", None))

    def tokenizer(self) -> Any:
        """The student's tokenizer, which makes the data: its own, its model's, or the teacher's.

        None where the task reads no text.
        """
        from distill_core.engine.tasks import reads_text

        if not reads_text(self.task):
            return None
        if self._tokenizer is None:
            student = self.config.student
            source = student.tokenizer or student.init.model
            if source is not None:
                from distill_core.engine.student import load_tokenizer

                self._tokenizer = load_tokenizer(source, student)
            else:
                teacher = self.teacher()
                if not hasattr(teacher, "tokenizer"):
                    raise DistillError(
                        f"the teacher {self.config.all_teachers} brings no tokenizer: set student.tokenizer"
                    )
                self._tokenizer = teacher.tokenizer()
        return self._tokenizer

    def understood(self, teacher: Any, *, policy: Any) -> tuple[Any, str]:
        """A live teacher as the student's vocabulary reads it, and the sentence that says what was done.

        Args:
            teacher: about to be captured.
            policy: ``train.vocabulary``.

        Raises:
            VocabularyError: the vocabularies differ and the policy does not bridge them.
        """
        from distill_core.engine.tasks import with_labels
        from distill_core.engine.vocabulary import with_vocabulary

        if self.task is not None:
            return with_labels(teacher, self.task, self.tokenizer())
        return with_vocabulary(teacher, self.tokenizer(), student_rows=self._student_rows(), policy=policy)

    def _student_rows(self) -> int:
        """Rows of the initial student's head."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(
            self.path("student"), trust_remote_code=self.config.student.trust_remote_code
        )
        return int(config.get_text_config().vocab_size)
