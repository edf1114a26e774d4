"""The rollout ``on-policy``: student, teacher or both write the sequences of each step.

Legend: B sequences, T positions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from distill_core.errors import DataError, SignalError, TrainingError, VocabularyError
from distill_core.interfaces import BuildContext
from distill_core.options import ScheduleRef
from distill_core.store import vocabulary_info
from distill_core.types import TokenBatch
from distill_objectives.rollouts.lengths import Lengths
from distill_objectives.rollouts.members import (
    DATA,
    STUDENT,
    TEACHER,
    Member,
    Prompt,
    from_data,
    prompt_length,
    prompt_of,
    to_batch,
    written,
)
from distill_objectives.rollouts.options import OnPolicyOptions
from distill_objectives.rollouts.reading import read
from distill_objectives.rollouts.teacher_responses import Response, TeacherResponses
from distill_objectives.rollouts.writing import Draft, Sampling, Voice, write

DIRECTORY = "rollout"
"""Where the teacher's responses lie, below the directory of the training."""

CHOICE, TEXT, TEACHER_TEXT = 0, 1, 2
"""What random numbers are for: part of their key."""


@dataclass
class Slot:
    """A sequence of the batch to come: whose it is, and once it is there, the sequence."""

    prompt: Prompt
    source: int
    member: Member | None = None


class OnPolicy:
    """Writes responses to the prompts of the data: on-policy distillation (GKD, arXiv 2306.13649; MiniLLM, 2306.08543).

    Each sequence of the data becomes one written by the student, one written by the teacher, or stays as it is, by the
    shares. Random numbers are keyed by seed, step and the sequence's place among those of the step over all
    processes, so a resumed run, another split into micro-batches and another number of processes write the same. The
    teacher's responses are keyed by the prompt instead and kept on disk.

    Batches carry ``source`` per sequence and ``behaviour_logp``, ``student_logp``, ``teacher_logp`` per token
    (:mod:`distill_objectives.rollouts.members`).

    Args:
        options: shares, sampling, lengths.
    """

    def __init__(self, options: OnPolicyOptions) -> None:
        self.options = options
        self.sampling = Sampling(options.temperature, options.top_k, options.top_p)
        self.lengths = Lengths(options.length_curriculum, options.max_new_tokens)
        self._reported: dict[str, float] = {}
        self._shares: dict[str, Callable[[int, int], float]] = {}

    # Before the first step ----------------------------------------------------------------------------------------

    def build(self, ctx: BuildContext) -> None:
        """Find the models; refuse what cannot work.

        Raises:
            TrainingError: no teacher where one is needed, a context too short for ``max_new_tokens``.
            SignalError: a teacher that is no local model.
            VocabularyError: the teacher reads other token ids than the student.
        """
        self.context = ctx
        self.student = ctx.student
        self.device = next(ctx.student.parameters()).device
        self.end = getattr(ctx.tokenizer, "eos_token_id", None)
        self.pad_id = getattr(ctx.tokenizer, "pad_token_id", None) or 0
        self.teacher = self._local_teacher(ctx) if self.options.teacher_for else None
        models = [self.student] if self.teacher is None else [self.student, self.teacher]
        self.valid_vocab = min(len(ctx.tokenizer), *(_head_rows(model) for model in models))
        self.context_tokens = min((c for model in models if (c := _context_tokens(model)) is not None), default=None)
        if self.context_tokens is not None and self.options.max_new_tokens >= self.context_tokens:
            raise TrainingError(
                f"rollout.max_new_tokens is {self.options.max_new_tokens}, but the models have a context of "
                f"{self.context_tokens} tokens, prompt included: lower it"
            )
        for name in ("student_share", "teacher_share", "teacher_mix"):
            self._shares[name] = _schedule(getattr(self.options, name), ctx)
        self.responses: TeacherResponses | None = None

    def _local_teacher(self, ctx: BuildContext) -> Any:
        asking = ", ".join(self.options.teacher_for)
        if ctx.teacher is None:
            raise TrainingError(
                f"rollout on-policy with {asking} asks a teacher, but the training has none: train.teacher: live"
            )
        model = getattr(ctx.teacher, "model", None)
        if model is None:
            raise SignalError(
                f"rollout on-policy with {asking} runs the teacher token by token, but {type(ctx.teacher).__name__} "
                "holds no model in this process: use a local teacher (hf), or write its text beforehand with the "
                "synthesizer sequence-kd"
            )
        own, theirs = vocabulary_info(ctx.tokenizer), ctx.teacher.vocabulary()
        if own.fingerprint != theirs.fingerprint:
            raise VocabularyError(
                f"rollout on-policy with {asking} lets the teacher read the student's token ids, but their tokenizers "
                f"differ ({theirs.size} and {own.size} tokens): train with sequences of the student and the data alone"
            )
        return model

    def _teacher_responses(self) -> TeacherResponses:
        """Opened at first use: the teacher's identity may be a hash of its weights."""
        if self.responses is None:
            directory = Path(self.context.directory or ".") / DIRECTORY
            settings = {
                "teacher": self.context.teacher.identity(),
                "seed": self.context.seed,
                "max_new_tokens": self.options.max_new_tokens,
                **vars(self.sampling),
            }
            self.responses = TeacherResponses(directory, settings, rank=self.context.rank)
        return self.responses

    # A step -------------------------------------------------------------------------------------------------------

    def batches(self, step: int, batches: Sequence[TokenBatch]) -> list[TokenBatch]:
        """As many micro-batches as given; with ``pairs`` each has twice the sequences.

        Raises:
            DataError: a sequence without a prompt, or a prompt that leaves too little of the context.
        """
        started_s = time.perf_counter()
        slots = self._slots(step, batches)
        flat = [slot for batch in slots for slot in batch]
        self._student_writes(step, [slot for slot in flat if slot.source == STUDENT])
        self._teacher_writes([slot for slot in flat if slot.source == TEACHER])
        made = [to_batch([_done(slot) for slot in batch], self.pad_id) for batch in slots]
        fresh_tokens = sum(len(_done(s).ids) - len(s.prompt.ids) for s in flat if s.source == STUDENT)
        seconds = time.perf_counter() - started_s
        self._reported = {
            "seconds": seconds,
            "student_tokens": float(fresh_tokens),
            "student_sequences": float(sum(slot.source == STUDENT for slot in flat)),
            "teacher_sequences": float(sum(slot.source == TEACHER for slot in flat)),
            "tokens_per_s": (fresh_tokens + self._teacher_tokens) / max(seconds, 1e-9),
            "max_new_tokens": float(self.lengths.tokens),
        }
        return self._read(made, slots)

    def _slots(self, step: int, batches: Sequence[TokenBatch]) -> list[list[Slot]]:
        place = self.context.rank * sum(len(batch.keys) for batch in batches)
        slots = []
        for batch in batches:
            own: list[Slot] = []
            for row in range(len(batch.keys)):
                sources = (TEACHER, STUDENT) if self.options.pairs else (self._source(step, place),)
                own += [self._slot(batch, row, source, place) for source in sources]
                place += 1
            slots.append(own)
        return slots

    def _source(self, step: int, place: int) -> int:
        """Who writes a sequence."""
        student, teacher = (self._share(name, step) for name in ("student_share", "teacher_share"))
        if student + teacher > 1 + 1e-9:
            raise TrainingError(
                f"step {step + 1}: student_share {student:g} and teacher_share {teacher:g} add up to more than 1"
            )
        number = float(self._uniforms(CHOICE, step, place, 1)[0])
        return STUDENT if number < student else TEACHER if number < student + teacher else DATA

    def _share(self, name: str, step: int) -> float:
        value = self._shares[name](step, self.context.total_steps)
        if not 0 <= value <= 1:
            raise TrainingError(f"step {step + 1}: rollout.{name} is {value:g}; expected a share from 0 to 1")
        return value

    def _slot(self, batch: TokenBatch, row: int, source: int, place: int) -> Slot:
        length = prompt_length(batch, row, self.options.prefix_tokens)
        if source == DATA:
            return Slot(prompt_of(batch, row, length or 0, place), DATA, from_data(batch, row))
        document = batch.documents[row] if batch.documents else f"number {place}"
        if length is None:
            raise DataError(
                f"document {document}: a sequence without a prompt: all its tokens are predicted, so there is nothing "
                "to respond to. Give records a `prompt`, or set rollout.prefix_tokens: the first tokens of a plain text"
            )
        if self.context_tokens is not None and length + self.options.max_new_tokens > self.context_tokens:
            raise DataError(
                f"document {document}: a prompt of {length} tokens and rollout.max_new_tokens "
                f"{self.options.max_new_tokens} do not fit the context of {self.context_tokens} tokens: lower it"
            )
        return Slot(prompt_of(batch, row, length, place), source)

    def _uniforms(self, purpose: int, step: int, place: int, count: int) -> NDArray[np.float64]:
        return np.random.default_rng([self.context.seed, purpose, step, place]).random(count)

    def _student_writes(self, step: int, slots: Sequence[Slot]) -> None:
        mix = self._share("teacher_mix", step)
        voices = [Voice(self.student, 1 - mix)]
        if mix > 0:
            voices.append(Voice(self.teacher, mix, rows=self.valid_vocab))
        drafts = [
            Draft(slot.prompt.ids, self._uniforms(TEXT, step, slot.prompt.place, self.lengths.tokens)) for slot in slots
        ]
        self._write(voices, drafts)
        for slot, draft in zip(slots, drafts, strict=True):
            numbers = {"behaviour_logp": draft.behaviour_logp, "student_logp": draft.own_logp[0]}
            if mix > 0:
                numbers["teacher_logp"] = draft.own_logp[1]
            slot.member = written(slot.prompt, draft.ids, STUDENT, numbers)

    def _teacher_writes(self, slots: Sequence[Slot]) -> None:
        self._teacher_tokens = 0
        if not slots:
            return
        responses = self._teacher_responses()
        prompts = {slot.prompt.key: slot.prompt.ids for slot in slots}
        drafts = {key: Draft(prompts[key], self._keyed_uniforms(key)) for key in responses.missing([*prompts])}
        self._write([Voice(self.teacher, rows=self.valid_vocab)], list(drafts.values()))
        if drafts:
            responses.add({k: Response(d.ids, d.behaviour_logp, d.own_logp[0]) for k, d in drafts.items()})
        self._teacher_tokens = sum(len(draft.ids) for draft in drafts.values())
        for slot in slots:
            found = responses.found[slot.prompt.key]
            limit = self.lengths.tokens
            numbers = {"behaviour_logp": found.behaviour_logp[:limit], "teacher_logp": found.teacher_logp[:limit]}
            slot.member = written(slot.prompt, found.ids[:limit], TEACHER, numbers)

    def _keyed_uniforms(self, key: bytes) -> NDArray[np.float64]:
        words = np.frombuffer(key, dtype="<u4").tolist()
        return np.random.default_rng([self.context.seed, TEACHER_TEXT, *words]).random(self.options.max_new_tokens)

    def _write(self, voices: Sequence[Voice], drafts: Sequence[Draft]) -> None:
        write(
            voices,
            drafts,
            sampling=self.sampling,
            valid_vocab=self.valid_vocab,
            end=self.end,
            batch_size=self.options.generation_batch,
        )

    # What student and teacher say of it ---------------------------------------------------------------------------

    def _read(self, made: list[TokenBatch], slots: list[list[Slot]]) -> list[TokenBatch]:
        if not self.options.score and self.options.length_curriculum is None:
            return made
        teacher = [
            read(self.teacher, batch.input_ids_BT, batch.attention_mask_BT, rows=self.valid_vocab) for batch in made
        ]
        if self.options.length_curriculum is not None:
            self._grow(made, [entropy for _, entropy in teacher], slots)
        if not self.options.score:
            return made
        scored = []
        for batch, (teacher_logp_BT, entropy_BT) in zip(made, teacher, strict=True):
            student_logp_BT, _ = read(self.student, batch.input_ids_BT, batch.attention_mask_BT)
            numbers = {
                "student_logp": student_logp_BT,
                "teacher_logp": teacher_logp_BT,
                "teacher_entropy": entropy_BT,
            }
            scored.append(replace(batch, per_token={**batch.per_token, **numbers}))
        return scored

    def _grow(self, made: list[TokenBatch], entropies: list[Tensor], slots: list[list[Slot]]) -> None:
        prompts = [[-1 if s.source == DATA else len(s.prompt.ids) for s in batch] for batch in slots]
        entropy = self.lengths.frontier_entropy(made, entropies, prompts, self.device)
        if entropy is not None:
            self._reported["frontier_entropy"] = entropy
        self.lengths.gate(entropy)

    # Traces -------------------------------------------------------------------------------------------------------

    def metrics(self) -> Mapping[str, float]:
        """Of the last step, in this process: seconds of writing, tokens written, tokens per second."""
        return self._reported

    def state_dict(self) -> dict[str, Any]:
        return {"max_new_tokens": self.lengths.tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.lengths.tokens = int(state["max_new_tokens"])


def _done(slot: Slot) -> Member:
    assert slot.member is not None
    return slot.member


def _schedule(value: float | ScheduleRef, ctx: BuildContext) -> Callable[[int, int], float]:
    if isinstance(value, ScheduleRef):
        schedule: Callable[[int, int], float] = ctx.build("schedule", {"use": value.use, **value.options})
        return schedule
    return lambda step, total_steps: value


def _head_rows(model: Any) -> int:
    return int(model.get_output_embeddings().weight.shape[0])


def _context_tokens(model: Any) -> int | None:
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    limit: int | None = getattr(config, "max_position_embeddings", None)
    return limit
