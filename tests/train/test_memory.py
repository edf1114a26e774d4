"""Peak memory: no tensor of tokens x V is alive in a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from distill_core.engine.data import TokenDataset
from distill_core.engine.trainer import DistillTrainer
from distill_core.ops import topk_logits
from distill_core.types import RowTarget, TeacherSignals
from tests.conftest import make_tiny_llama
from tests.train.setting import DenseTeacher, objectives, run_training, save_student, write_data

VOCABULARY = 49_152
LENGTH, SEQUENCES = 512, 4
TOKENS = LENGTH * SEQUENCES
FULL_LOGITS_BYTES = 4 * TOKENS * VOCABULARY


class SparseTeacher(DenseTeacher):
    """Answers from nothing, so that only the student's memory is seen."""

    def signals(self, batch: Any, needs: Any, sparse: Any = None) -> TeacherSignals:
        rows = len(batch.rows())
        generator = torch.Generator().manual_seed(0)
        top = topk_logits(torch.randn(rows, 64, generator=generator), 12)
        return TeacherSignals(
            target=RowTarget("exact", top.ids_NK, (1.0,), logits_NK=top.logits_NK, tail_NM=top.tail_NT)
        )


def allocations(run: Any) -> tuple[int, int]:
    """Largest single allocation, and largest sum of live ones beyond those alive at the start, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        largest = max(largest, event.nbytes())
        live += event.nbytes()
        peak = max(peak, live)
    return largest, peak


def test_no_tensor_of_tokens_by_vocabulary_is_alive(tmp_path: Path, monkeypatch: Any) -> None:
    student = make_tiny_llama(seed=1, vocab_size=VOCABULARY, hidden_size=8, max_position_embeddings=LENGTH)
    student_dir = save_student(tmp_path / "student", student)
    data: TokenDataset = write_data(tmp_path / "data", lengths=[LENGTH] * SEQUENCES, vocabulary=VOCABULARY)
    measured: dict[str, int] = {}
    plain_step = DistillTrainer.training_step

    def profiled_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        results = []
        measured["largest"], measured["peak"] = allocations(lambda: results.append(plain_step(self, *args, **kwargs)))
        return results[0]

    monkeypatch.setattr(DistillTrainer, "training_step", profiled_step)
    run_training(
        tmp_path / "run",
        student_dir=student_dir,
        data=data,
        teacher=SparseTeacher(make_tiny_llama()),
        config={"max_steps": 1, "batch_sequences": SEQUENCES, "objectives": objectives("kl", "hard")},
    )
    assert FULL_LOGITS_BYTES == 402_653_184
    assert 4 * VOCABULARY * 8 < measured["largest"] <= 64 * 2**20  # a chunk of logits at most; the weight at least
    assert measured["peak"] < FULL_LOGITS_BYTES  # all that is ever alive together is less than one such tensor

    # the measurement does see such a tensor where there is one
    rows = TOKENS - SEQUENCES
    largest, _ = allocations(lambda: torch.zeros(rows, 8) @ torch.zeros(8, VOCABULARY))
    assert largest >= 4 * rows * VOCABULARY
