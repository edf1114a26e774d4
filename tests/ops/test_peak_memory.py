"""No tensor of N x V is ever alive: measured by the profiler's memory events at N = 2,048 and V = 49,152."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.ops.row_chunks import default_rows

N, V, D, K = 2048, 49_152, 8, 8
WHOLE = N * V * 4


def allocations(run):
    """Bytes allocated, negative where freed, in the order of the profiler's memory events."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, record_shapes=True
    ) as profile:
        run()
    found = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert found, "the profiler recorded no memory event"
    return found


def memory(run):
    """Largest single allocation and highest total above the start, in bytes."""
    total = peak = largest = 0
    for n_bytes in allocations(run):
        total += n_bytes
        peak, largest = max(peak, total), max(largest, n_bytes)
    return largest, peak


@pytest.fixture(scope="module")
def step():
    torch.manual_seed(0)
    hidden = torch.randn(N, D, requires_grad=True)
    weight = (torch.randn(V, D) * 0.1).requires_grad_()
    ids = torch.randint(0, V // K, (N, K)) + torch.arange(K) * (V // K)
    logp = torch.log_softmax(torch.randn(N, K), 1) - 0.1
    return hidden, weight, ids, logp


def schedules(hidden, weight, ids, logp, impl):
    def row_loss(s, rows):
        return -(logp[rows].exp() * s.log_probs()[:, :-1]).sum(1)

    return {
        "sparse_distill_loss": lambda: ops.sparse_distill_loss(hidden, weight, ids, row_loss, impl=impl).backward(),
        "linear_sparse_kl": lambda: ops.linear_sparse_kl(hidden, weight, ids, logp, impl=impl).backward(),
        "linear_sparse_kl-none": lambda: ops.linear_sparse_kl(
            hidden, weight, ids, logp, reduction="none", impl=impl
        ).mean().backward(),
        "linear_topk_logits": lambda: ops.linear_topk_logits(hidden, weight, K, impl=impl),
    }  # fmt: skip


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize(
    "name", ["sparse_distill_loss", "linear_sparse_kl", "linear_sparse_kl-none", "linear_topk_logits"]
)
def test_no_tensor_of_tokens_by_vocabulary(step, name, impl):
    hidden, weight, ids, logp = step
    hidden.grad = weight.grad = None
    largest, peak = memory(schedules(hidden, weight, ids, logp, impl)[name])
    # One chunk of 256 rows is an eighth of the whole; two or three chunk-sized buffers may be alive together.
    assert largest <= WHOLE // 8
    assert peak < WHOLE // 2


@pytest.mark.parametrize("name", ["linear_topk_logits", "linear_support_logits"])
def test_chunks_share_one_buffer_of_logits(step, name):
    """A pass without gradients writes the logits of all its chunks into one buffer; kernels make no other."""
    hidden, weight, ids, _ = step
    passes = {
        "linear_topk_logits": lambda: ops.linear_topk_logits(hidden, weight, K, impl="cpu"),
        "linear_support_logits": lambda: ops.linear_support_logits(hidden, weight, ids, impl="cpu"),
    }
    chunk = default_rows(V, 4, narrow=True) * V * 4
    with torch.no_grad():
        large = [n_bytes for n_bytes in allocations(passes[name]) if n_bytes >= chunk]
    assert chunk <= WHOLE // 32
    assert len(large) == 1


def test_the_measure_sees_a_dense_loss(step):
    """The same events do show N x V where it is: the test above can fail."""
    hidden, weight, ids, _ = step

    def dense():
        torch.log_softmax(hidden[:256] @ weight.T, 1).gather(1, ids[:256]).mean().backward()

    largest, peak = memory(dense)
    assert largest >= 256 * V * 4 and peak >= 2 * 256 * V * 4
