"""How the CUDA library answers where it cannot run, and what the kernels' sources may include."""

from __future__ import annotations

import re

import pytest
import torch

from distill_core import ops
from distill_core.ops import cuda_library

from .conftest import CSRC


def test_no_kernel_includes_a_torch_header() -> None:
    files = [*CSRC.glob("kernels/*.cuh"), *CSRC.glob("cuda/*.cu"), CSRC / "cuda" / "launchers.h"]
    assert len(files) > 5
    for path in files:
        assert not re.search(r'#include\s+[<"](torch|ATen|c10)', path.read_text()), path.name


def test_constants_agree() -> None:
    assert f"distill_max_k = {cuda_library.MAX_K};" in (CSRC / "cuda" / "launchers.h").read_text()
    assert f"MAX_K = {cuda_library.MAX_K};" in (CSRC / "kernels" / "topk_rows.cuh").read_text()


@pytest.mark.parametrize("call", [ops.topk_logits, ops.sample_support], ids=["topk_logits", "sample_support"])
def test_on_a_cpu_tensor_it_refuses_and_says_why(call) -> None:
    with pytest.raises(RuntimeError, match="the cuda kernel runs on cuda tensors, these are on cpu"):
        call(torch.zeros(1, 8), 2, impl="cuda")


def test_a_call_that_does_not_fit_goes_to_another(monkeypatch) -> None:
    from distill_core.ops import dispatch

    monkeypatch.setitem(dispatch._offered, "fits", {})
    dispatch.declare("fits")
    dispatch.offer("fits", "cuda", lambda: (True, "yes"), devices=())
    assert dispatch.select("fits", "auto", "cpu", unfit=cuda_library.too_many(1024)) == "cuda"
    assert dispatch.select("fits", "auto", "cpu", unfit=cuda_library.too_many(1025)) == "reference"
    with pytest.raises(RuntimeError, match="at most 1024 entries per row; got k = 1025"):
        dispatch.select("fits", "cuda", "cpu", unfit=cuda_library.too_many(1025))
