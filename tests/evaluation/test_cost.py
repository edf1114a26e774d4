"""Memory against tensors of a known size, and the cost of a run against the facts it is made of."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from distill_core.engine.cost import cost_of
from distill_core.engine.memory import weight_bytes
from tests.conftest import make_tiny_llama

HELD = """
import torch
from distill_core.engine.memory import peak_bytes

MIB = 2**20
size, count = 32 * MIB, {count}

def hold():
    for _ in range(2):
        sum(map(len, [torch.ones(size, dtype=torch.uint8) for _ in range(count)]))

for _ in range(2):
    found = peak_bytes(torch.device("cpu"), hold)
    assert found is not None and 0.95 * count * size <= found <= count * size + 8 * MIB, found
nothing = peak_bytes(torch.device("cpu"), lambda: None)
assert nothing is not None and nothing < 4 * MIB, nothing
"""


@pytest.mark.parametrize("count", [1, 3])
def test_the_peak_is_what_was_held_at_once(count: int) -> None:
    """Tensors of 32 MiB held together; measured again, the same. In a process whose heap is not fragmented already."""
    done = subprocess.run([sys.executable, "-c", HELD.format(count=count)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_weights_that_are_shared_count_once() -> None:
    model = make_tiny_llama(vocab_size=100, seed=0)
    model.lm_head.weight = model.model.embed_tokens.weight
    expected = 4 * sum(p.numel() for p in model.parameters()) + sum(
        b.numel() * b.element_size() for b in model.buffers()
    )
    assert weight_bytes(model) == expected
    assert weight_bytes(model.half()) < expected


def test_the_cost_of_a_run() -> None:
    def manifest(seconds: float, **notes: Any) -> Any:
        return SimpleNamespace(seconds=seconds, cpu_seconds=2 * seconds, attempts=1, notes=notes)

    manifests = {"capture:main": manifest(3.0), "train:student": manifest(5.0, steps=2), "evaluate": manifest(1.0)}
    stores = {"main": SimpleNamespace(n_tokens=100, n_rows=90, n_bytes=1800, bytes_per_row=20.0)}
    empty = SimpleNamespace(n_tokens=0, n_rows=0, n_bytes=10, bytes_per_row=10.0)
    steps = {"student": [{"step": 1, "tokens": 60}, {"step": 2, "tokens": 40}], "unfinished": [{"step": 1}]}
    found = cost_of(manifests, {**stores, "empty": empty}, steps)  # type: ignore[arg-type,dict-item]
    assert found["labels"]["main"] == {"teacher_tokens": 100, "rows": 90, "bytes": 1800, "bytes_per_row": 20.0}
    assert found["labels"]["empty"]["bytes_per_row"] is None
    assert found["trainings"] == {"student": {"steps": 2, "tokens": 100, "seconds": 5.0}}
    assert found["stages"]["capture:main"] == {"seconds": 3.0, "cpu_seconds": 6.0, "attempts": 1}
