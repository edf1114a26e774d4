"""Which implementation runs, what `status` says, and what an explicit `impl` does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill_core import ops
from distill_core.ops import dispatch
from distill_core.ops.native_build import why_not_built

IDS = torch.tensor([[0]])
LOGITS = torch.zeros(1, 3)
HEAD = (torch.zeros(1, 2), torch.zeros(3, 2))
LOGP = torch.tensor([[-1.0]])
CALLS = {
    "linear_support_logits": lambda impl: ops.linear_support_logits(*HEAD, IDS, impl=impl),
    "support_logits": lambda impl: ops.support_logits(LOGITS, IDS, impl=impl),
    "sparse_distill_loss": lambda impl: ops.sparse_distill_loss(*HEAD, IDS, lambda s, r: s.logsumexp(), impl=impl),
    "sparse_kl": lambda impl: ops.sparse_kl(LOGITS, IDS, LOGP, impl=impl),
    "linear_sparse_kl": lambda impl: ops.linear_sparse_kl(*HEAD, IDS, LOGP, impl=impl),
    "topk_logits": lambda impl: ops.topk_logits(LOGITS, 1, impl=impl),
    "linear_topk_logits": lambda impl: ops.linear_topk_logits(*HEAD, 1, impl=impl),
    "sample_support": lambda impl: ops.sample_support(LOGITS, 1, impl=impl),
    "gradient_match": lambda impl: ops.gradient_match([LOGITS], [LOGITS], impl=impl),
    "gradient_gram": lambda impl: ops.gradient_gram(*[LOGITS[None]] * 4, impl=impl),
    "random_projection": lambda impl: ops.random_projection(LOGITS, 2, seed=0, impl=impl),
}
every_op = pytest.mark.parametrize("op", CALLS)


def test_status_covers_every_op_and_prints():
    status = ops.status()
    # unpack_rows serves the engine, which declares it when it is imported
    assert set(status) - {"unpack_rows"} == set(CALLS)
    for op, cells in status.items():
        assert list(cells) == ["reference", "cpu", "triton", "cuda"]
        assert cells["reference"]["available"] is True
        for cell in cells.values():
            assert isinstance(cell["available"], bool) and cell["reason"]
        assert op in str(status)
    assert "can run" in str(status)


@every_op
def test_auto_records_its_choice(op, monkeypatch):
    monkeypatch.setattr(dispatch, "_chosen", {})
    CALLS[op]("auto")
    assert ops.chosen()[op] in ("reference", "cpu")
    assert ops.status()[op][ops.chosen()[op]]["available"]


@every_op
def test_reference_runs_when_asked_for(op, monkeypatch):
    monkeypatch.setattr(dispatch, "_chosen", {})
    CALLS[op]("reference")
    assert ops.chosen() == {}


@every_op
@pytest.mark.parametrize("impl", ["triton", "cuda"])
def test_an_implementation_that_cannot_run_raises_and_says_why(op, impl):
    with pytest.raises(RuntimeError, match=rf'{op}: impl="{impl}" cannot run: .*{impl}.*impl="reference"') as caught:
        CALLS[op](impl)
    assert "ops.status()" in str(caught.value)


@every_op
def test_unknown_implementation(op):
    with pytest.raises(ValueError, match=f"{op}: impl must be one of.*got 'fast'"):
        CALLS[op]("fast")


def test_offered_kernels_are_preferred_by_device_and_availability(monkeypatch):
    monkeypatch.setattr(dispatch, "_offered", {})
    monkeypatch.setattr(dispatch, "_chosen", {})
    dispatch.declare("op")
    answers = {
        "cpu": (True, "built for AVX2"),
        "cuda": (True, "compiled"),
        "triton": (False, "triton is not installed"),
    }
    for impl in answers:
        dispatch.offer("op", impl, lambda impl=impl: answers[impl])
    assert dispatch.select("op", "auto", "cpu") == "cpu"
    assert dispatch.select("op", "auto", "cuda") == "cuda"
    assert dispatch.chosen() == {"op": "cuda"}
    answers["cuda"] = (False, "compiled without nvcc")
    assert dispatch.select("op", "auto", "cuda") == "reference"
    assert dispatch.select("op", "auto", "xpu") == "reference"
    with pytest.raises(RuntimeError, match="the cpu kernel runs on cpu tensors, these are on cuda"):
        dispatch.select("op", "cpu", "cuda")
    with pytest.raises(RuntimeError, match="triton is not installed"):
        dispatch.select("op", "triton", "cuda")
    with pytest.raises(ValueError, match="impl must be one of"):
        dispatch.offer("op", "rocm", lambda: (True, ""))
    assert dispatch.status()["op"]["cpu"] == {"available": True, "reason": "built for AVX2"}


def test_status_repeats_what_the_installation_could_not_build(tmp_path: Path) -> None:
    record = tmp_path / "native_build.json"
    record.write_text(
        '{"distill_core._C": {"built": false, "reason": "no C++ compiler"}, "distill_core._CU": {"built": true}}'
    )
    assert why_not_built("cpu", record) == "distill_core._C was not built: no C++ compiler"
    assert why_not_built("cuda", record) is None
    assert why_not_built("cpu", tmp_path / "none.json") is None


def test_a_dtype_that_a_kernel_does_not_take(monkeypatch):
    monkeypatch.setattr(dispatch, "_offered", {})
    dispatch.declare("op")
    dispatch.offer("op", "cpu", lambda: (True, "built"), dtypes=(torch.float32, torch.bfloat16))
    assert dispatch.select("op", "auto", "cpu", torch.float32, torch.bfloat16) == "cpu"
    assert dispatch.select("op", "auto", "cpu", torch.float32, torch.float64) == "reference"
    with pytest.raises(RuntimeError, match=r"the cpu kernel takes .*bfloat16; got .*float64"):
        dispatch.select("op", "cpu", "cpu", torch.float64)
