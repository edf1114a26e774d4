"""What happens when a teacher's vocabulary meets a student's: said in one sentence, or refused in one.

A tokenizer with 151,700 tokens may come with heads of 151,936 and 152,064 rows: what counts is the tokenizer. Teacher
probabilities are normalised over its tokens; padding rows of the student's head stay in the student's tail, where the
loss pushes them down like any other token the teacher does not propose.

Legend: N rows, K support size, V teacher vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from distill_core.config import ComponentRef
from distill_core.errors import VocabularyError
from distill_core.interfaces import Aligner, Teacher, VocabularyInfo
from distill_core.store import vocabulary_info
from distill_core.types import Needs, RowTarget, SparseSpec, TeacherSignals, TokenBatch

Policy = Literal["error", "truncate"]


@dataclass(frozen=True)
class NamedAligner:
    """A policy of its own: vocabularies that differ are aligned.

    Args:
        name: the component with its options, for messages and for the identity of what is captured through it.
        aligner: the component.
    """

    name: str
    aligner: Aligner


def chosen_policy(setting: str | ComponentRef, registry: Any) -> Policy | NamedAligner:
    """``train.vocabulary`` as a policy; builds the aligner where it names one."""
    if isinstance(setting, ComponentRef):
        options = ", ".join(f"{name}={value}" for name, value in sorted(setting.options.items()))
        return NamedAligner(f"{setting.use}({options})", registry.build("aligner", setting))
    return "truncate" if setting == "truncate" else "error"


SHORT_FINGERPRINT = 8
"""Characters of a fingerprint in messages."""


@dataclass(frozen=True)
class VocabularyAgreement:
    """How teacher and student understand each other.

    Args:
        sentence: what was found and done, for the log and the report.
        common_V: bool, True for ids that stand for the same token on both sides; None: all do.
    """

    sentence: str
    common_V: Tensor | None = None


def agree_on_vocabulary(
    teacher: VocabularyInfo,
    student: VocabularyInfo,
    *,
    student_rows: int,
    policy: Policy = "error",
    teacher_tokens: Mapping[str, int] | None = None,
    student_tokens: Mapping[str, int] | None = None,
) -> VocabularyAgreement:
    """Decide what a teacher's targets mean to a student.

    Args:
        teacher: the teacher's tokenizer (size, fingerprint, name for messages).
        student: the student's.
        student_rows: rows of the student's head.
        policy: for different fingerprints. ``error``; ``truncate``: the teacher is renormalised over the ids that stand
            for the same token text on both sides.
        teacher_tokens: token text to id, read by ``truncate``.
        student_tokens: the same of the student.

    Raises:
        VocabularyError: the tokenizers differ and the policy does not bridge them, or the student's head has fewer
            rows than its tokenizer has tokens.

    >>> one = VocabularyInfo(151_700, "ab" * 16, "tokenizer")
    >>> agree_on_vocabulary(one, one, student_rows=152_064).sentence.split("; ")[1]
    "364 padding rows of the student's head stay in its tail"
    """
    if student_rows < student.size:
        raise VocabularyError(
            f"the student's head has {student_rows:,} rows, but {_named('its tokenizer', student)} has "
            f"{student.size:,} tokens: resize the student's embeddings to the tokenizer"
        )
    if teacher.fingerprint == student.fingerprint:
        return VocabularyAgreement(_shared(student, student_rows))
    difference = _differ(teacher, student)
    if policy == "truncate":
        return _truncated(teacher, student, difference, teacher_tokens, student_tokens)
    raise VocabularyError(
        f"{difference}. The same id stands for different text, so the teacher's probabilities would be read wrongly. "
        "Give the student the teacher's tokenizer (student.tokenizer), capture again with the right teacher, name an "
        "aligner (train.vocabulary: {use: ...}) or, if one vocabulary extends the other, set train.vocabulary: "
        "truncate"
    )


def with_vocabulary(
    teacher: Teacher,
    tokenizer: Any,
    *,
    student_rows: int,
    policy: Policy | NamedAligner = "error",
    teacher_tokenizer: Any = None,
) -> tuple[Teacher, str]:
    """The teacher as this student may read it, and the sentence that says what was done.

    Args:
        teacher: live or stored.
        tokenizer: the student's.
        student_rows: rows of the student's head.
        policy: as in :func:`agree_on_vocabulary`, or an aligner.
        teacher_tokenizer: read by ``truncate``; default: ``teacher.tokenizer()`` where there is one (a store has none).

    Raises:
        VocabularyError: as :func:`agree_on_vocabulary`.
    """
    info = vocabulary_info(tokenizer)
    theirs = teacher.vocabulary()
    if isinstance(policy, NamedAligner):
        return _aligned(teacher, theirs, info, tokenizer, student_rows, policy)
    if policy == "truncate" and theirs.fingerprint != info.fingerprint and teacher_tokenizer is None:
        offered = getattr(teacher, "tokenizer", None)
        teacher_tokenizer = offered() if callable(offered) else None
    agreement = agree_on_vocabulary(
        theirs,
        info,
        student_rows=student_rows,
        policy=policy,
        teacher_tokens=None if teacher_tokenizer is None else teacher_tokenizer.get_vocab(),
        student_tokens=tokenizer.get_vocab(),
    )
    if agreement.common_V is None:
        return teacher, agreement.sentence
    return TruncatedTeacher(teacher, agreement.common_V, info), agreement.sentence


def _aligned(
    teacher: Teacher,
    theirs: VocabularyInfo,
    info: VocabularyInfo,
    tokenizer: Any,
    student_rows: int,
    policy: NamedAligner,
) -> tuple[Teacher, str]:
    if theirs.fingerprint == info.fingerprint:
        agreement = agree_on_vocabulary(theirs, info, student_rows=student_rows)
        return teacher, f"{agreement.sentence}; the aligner {policy.name} has nothing to do here"
    offered = getattr(teacher, "tokenizer", None)
    if not callable(offered):
        raise VocabularyError(
            f"{_differ(theirs, info)}. The aligner {policy.name} asks the teacher about text in its own tokens, but "
            "this one has no tokenizer (a store made without the aligner holds ids of the teacher's vocabulary): "
            "capture with this train.vocabulary in the run file, or use a live teacher (train.teacher: live)"
        )
    if student_rows < info.size:
        agree_on_vocabulary(info, info, student_rows=student_rows)  # says so
    aligned = AlignedTeacher(teacher, policy, offered(), tokenizer, info)
    return aligned, f"{_differ(theirs, info)}; aligner {policy.name}: {aligned.alignment.describe()}"


class _ForStudent:
    """A teacher that answers in the student's vocabulary; members that are not overridden are the teacher's own."""

    def __init__(self, teacher: Teacher, student: VocabularyInfo) -> None:
        self.teacher = teacher
        self._student = student

    def __getattr__(self, name: str) -> Any:
        if name in ("teacher", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.teacher, name)

    def vocabulary(self) -> VocabularyInfo:
        return self._student


class AlignedTeacher(_ForStudent):
    """A teacher heard through an aligner: everything it says is in the student's tokens, at the student's rows.

    Args:
        teacher: the teacher.
        policy: the aligner.
        teacher_tokenizer, student_tokenizer: what it translates between.
        student: what :meth:`vocabulary` answers.

    Raises:
        VocabularyError: tokenizers that the aligner cannot read.
    """

    def __init__(
        self,
        teacher: Teacher,
        policy: NamedAligner,
        teacher_tokenizer: Any,
        student_tokenizer: Any,
        student: VocabularyInfo,
    ) -> None:
        super().__init__(teacher, student)
        self.policy = policy
        self.alignment = policy.aligner.between(teacher_tokenizer, student_tokenizer)

    def identity(self) -> str:
        """The teacher's, with the aligner: what is captured through another one is another store."""
        return f"{self.teacher.identity()} through {self.policy.name}"

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """The aligner's answer."""
        return self.alignment.signals(self.teacher, batch, needs, sparse)


class TruncatedTeacher(_ForStudent):
    """A teacher seen through the ids it has in common with the student; other members are the teacher's own.

    Entries of the support that are not common are dropped and the rest is renormalised. The teacher's tail is kept as
    it is, so mass of foreign tokens outside the support stays in it. Exact targets only.

    Args:
        teacher: the teacher.
        common_V: bool, ids in common.
        student: what :meth:`vocabulary` answers.
    """

    def __init__(self, teacher: Teacher, common_V: Tensor, student: VocabularyInfo) -> None:
        super().__init__(teacher, student)
        self.common_V = common_V

    def identity(self) -> str:
        return self.teacher.identity()

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """The teacher's signals with targets over common ids.

        Raises:
            VocabularyError: the batch itself holds ids that mean something else to the teacher, or the targets are a
                sample.
        """
        ids_N = batch.input_ids_BT[batch.attention_mask_BT.bool()]
        if not bool(self._is_common(ids_N).all()):
            foreign = sorted(set(ids_N[~self._is_common(ids_N)].tolist()))
            raise VocabularyError(
                f"the batch holds {len(foreign)} token ids that stand for other text in the teacher's vocabulary "
                f"(first: {foreign[:5]}), so the teacher would read another text: truncate needs text of common tokens"
            )
        signals = self.teacher.signals(batch, needs, sparse)
        if signals.target is None:
            return signals
        return replace(signals, target=self._restrict(signals.target))

    def _is_common(self, ids: Tensor) -> Tensor:
        common_V = self.common_V.to(ids.device)
        inside = (ids >= 0) & (ids < len(common_V))
        return inside & common_V[torch.where(inside, ids, 0)]

    def _restrict(self, target: RowTarget) -> RowTarget:
        if target.kind != "exact" or target.logits_NK is None or target.tail_NM is None:
            raise VocabularyError(
                "truncate needs exact targets: a sample renormalised over common tokens is biased, and its entropy is "
                "not known; use method: topk"
            )
        kept_NK = self._is_common(target.ids_NK)
        ids_NK = torch.where(kept_NK, target.ids_NK, -1)
        gone_N = ~(kept_NK & ~target.logits_NK.isneginf()).any(dim=1) & target.tail_NM.isneginf().any(dim=1)
        if bool(gone_N.any()):
            raise VocabularyError(
                f"{int(gone_N.sum())} rows of the teacher give no probability to any token in common with the student"
            )
        return replace(target, ids_NK=ids_NK, entropy_N=None)


def _differ(teacher: VocabularyInfo, student: VocabularyInfo) -> str:
    return (
        f"teacher and student have different tokenizers: {_described('teacher', teacher)}, "
        f"{_described('student', student)}"
    )


def _shared(student: VocabularyInfo, student_rows: int) -> str:
    sentence = f"teacher and student share one tokenizer of {student.size:,} tokens ({_short(student)})"
    padding = student_rows - student.size
    if padding == 0:
        return sentence
    return f"{sentence}; {padding:,} padding rows of the student's head stay in its tail"


def _truncated(
    teacher: VocabularyInfo,
    student: VocabularyInfo,
    difference: str,
    teacher_tokens: Mapping[str, int] | None,
    student_tokens: Mapping[str, int] | None,
) -> VocabularyAgreement:
    if teacher_tokens is None or student_tokens is None:
        raise VocabularyError(
            f"{difference}. train.vocabulary: truncate compares the tokens themselves, but the teacher's are not known "
            "here (a store keeps a fingerprint alone): use a live teacher, or give the student the teacher's tokenizer"
        )
    common_V = torch.zeros(teacher.size, dtype=torch.bool)
    for text, index in teacher_tokens.items():
        if student_tokens.get(text) == index and index < teacher.size:
            common_V[index] = True
    count = int(common_V.sum())
    if count == 0:
        raise VocabularyError(f"{difference}. truncate: no token has the same text and id on both sides")
    return VocabularyAgreement(
        f"{difference}; truncate: the teacher is renormalised over the {count:,} tokens that have the same text and id "
        f"on both sides, {teacher.size - count:,} of the teacher's are left out",
        common_V,
    )


def _short(info: VocabularyInfo) -> str:
    return info.fingerprint[:SHORT_FINGERPRINT]


def _named(role: str, info: VocabularyInfo) -> str:
    return f"{role} ({info.name})" if info.name else role


def _described(role: str, info: VocabularyInfo) -> str:
    return f"{_named(role, info)} has {info.size:,} tokens, fingerprint {_short(info)}"
