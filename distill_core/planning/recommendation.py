"""What the figures of a plan advise, and what they warn of. Every sentence names the figures it rests on."""

from __future__ import annotations

from distill_core.planning.figures import Advice
from distill_core.planning.losses import Losses
from distill_core.planning.memory import StepMemory
from distill_core.planning.request import Request
from distill_core.planning.scaling_law import BUSBRIDGE
from distill_core.planning.storage import bytes_per_position

TOKENS_PER_PARAMETER = 20
"""Compute-optimal ratio (Hoffmann et al. 2022, arXiv 2203.15556; 2502.08606, Table 1)."""


def loss_warnings(request: Request, losses: Losses) -> list[str]:
    """Where the teacher does not fit the student."""
    found = []
    gap = losses.student - losses.best_student
    if losses.teacher < losses.best_teacher and gap > losses.within_error:
        found.append(
            f"capacity gap: the teacher (L_T = {losses.teacher:.3f} nat) is too strong for this student and these "
            f"tokens; the law expects {gap:.3f} nat less from a teacher of {losses.best_teacher:.3f}"
        )
    elif losses.teacher < losses.best_teacher:
        found.append(
            f"the teacher (L_T = {losses.teacher:.3f} nat) is beyond the best one ({losses.best_teacher:.3f}): a "
            f"stronger teacher would not help; the capacity gap costs {gap:.3f} nat, within the law's error of 1 %"
        )
    if losses.teacher >= losses.alone:
        found.append(
            f"the teacher (L_T = {losses.teacher:.3f} nat) is no better than the student would be without it "
            f"({losses.alone:.3f}): in this law a student never falls below its teacher"
        )
    if losses.teacher < BUSBRIDGE.irreducible:
        found.append(
            f"the teacher's loss {losses.teacher:.3f} is below the irreducible {BUSBRIDGE.irreducible} nat of the "
            "law's corpus: it was measured on other data or per another unit, and the law says nothing about it"
        )
    return found


def distil_or_not(request: Request, losses: Losses) -> Advice:
    """Whether to distil at all."""
    rival = losses.alone if losses.alone_same_compute is None else losses.alone_same_compute
    gain, compute = rival - losses.student, losses.alone_same_compute is not None
    against = "without a teacher at the same compute" if compute else "without a teacher on the same tokens"
    why = f"expected {losses.student:.3f} nat, {against} {rival:.3f}: {abs(gain):.3f} nat "
    error = losses.within_error
    if abs(gain) <= error:
        why += f"{'less' if gain > 0 else 'more'}, within the law's error of {error:.3f}"
        return Advice(advice="either way: the law does not tell distillation from supervised training here", why=why)
    if gain > 0:
        return Advice(advice="distil", why=why + "less")
    cause = " once the teacher's own training is paid for" if request.train_teacher else ""
    return Advice(advice="train without a teacher", why=why + f"more{cause}")


def store_or_live(request: Request, break_even: float | None) -> Advice:
    """Whether the teacher answers once or in every step."""
    passes = request.epochs * request.students
    if request.flops is not None and break_even is None:
        return Advice(
            advice="let the teacher answer live",
            why="reading a stored position takes longer than computing it with this hardware and disk",
        )
    needed = 1.0 if break_even is None else break_even
    if passes > needed:
        return Advice(
            advice="capture the teacher once and train from the store",
            why=f"{passes:g} passes over the same tokens (epochs x students); a store pays from {needed:.3g} on, and "
            "the teacher's weights need not be in memory",
        )
    return Advice(
        advice="let the teacher answer live, unless its weights do not fit or another student follows",
        why=f"{passes:g} pass over the tokens; a store pays only above {needed:.3g}",
    )


def what_to_store(positions: float) -> Advice:
    """Which sparse form."""
    threshold, topk = (bytes_per_position(*choice) * positions for choice in (("threshold", 12), ("topk", 64)))
    return Advice(
        advice="store threshold samples of 12 entries for forward KL and cross-entropy; the 64 largest with their tail "
        "for reverse KL, JSD and other divergences that are not linear in the teacher",
        why=f"{_bytes(threshold)} against {_bytes(topk)}; sampled weights are unbiased only in losses linear in "
        "the teacher. Renormalised top-k is biased: at k = 128 it cost 0.11 nat in arXiv 2502.08606, appendix G.4",
    )


def fits_in_memory(
    request: Request, memory: StepMemory, checkpointed: StepMemory, teacher_bytes: float
) -> list[Advice]:
    """Checkpointing and micro-batches, against the memory given."""
    if request.memory is None:
        return []
    budget, peak = request.memory, memory.peak + teacher_bytes
    if peak <= budget:
        why = f"peak {_bytes(peak)} of {_bytes(budget)}"
        if memory.dense_peak + teacher_bytes > budget:
            why += f"; a dense [N, V] loss would need {_bytes(memory.dense_peak + teacher_bytes)}"
        return [Advice(advice=f"micro-batches of {request.batch} sequences fit", why=why)]
    if not request.checkpointing and checkpointed.peak + teacher_bytes <= budget:
        why = f"peak {_bytes(peak)} without, {_bytes(checkpointed.peak + teacher_bytes)} with it, of {_bytes(budget)}"
        return [Advice(advice="turn gradient checkpointing on", why=why)]
    fixed = memory.weights + memory.adam + memory.gradients + teacher_bytes
    if fixed > budget:
        why = f"weights, gradients and AdamW alone take {_bytes(fixed)} of {_bytes(budget)}"
        return [Advice(advice="use LoRA, a smaller student, or several devices", why=why)]
    why = f"peak {_bytes(checkpointed.peak + teacher_bytes)} even with checkpointing, of {_bytes(budget)}"
    return [Advice(advice="use smaller micro-batches and accumulate gradients", why=why)]


def enough_tokens(request: Request) -> list[Advice]:
    """Tokens per parameter, against the compute-optimal ratio."""
    ratio = request.tokens / request.student.body
    if ratio >= TOKENS_PER_PARAMETER or not request.from_scratch:
        return []
    return [
        Advice(
            advice="start from layers of the teacher or a trained model, or use more text",
            why=f"{ratio:.3g} tokens per parameter; a student that starts at random is compute-optimal at about "
            f"{TOKENS_PER_PARAMETER} (Hoffmann et al. 2022)",
        )
    ]


def _bytes(n_bytes: float) -> str:
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= limit:
            return f"{n_bytes / limit:.3g} {unit}"
    return f"{n_bytes:.0f} B"
