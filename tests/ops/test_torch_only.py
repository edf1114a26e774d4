"""`from distill_core import ops` runs every op where torch, numpy and the standard library are all there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

import distill_core

# What torch itself needs (its wheel's dependencies), and numpy.
VISIBLE = (
    *("torch", "torchgen", "functorch", "numpy", "numpy.libs"),
    *("typing_extensions.py", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "filelock", "fsspec"),
)

PROGRAM = r"""
import sys

try:
    import jaxtyping
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("more than torch and numpy can be imported here")

import torch
from distill_core import ops

N, V, D, K = 5, 11, 4, 3
h, w = torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
top = ops.linear_topk_logits(h, w, K)
logp, tail = top.log_probs()
assert torch.equal(ops.topk_logits(h @ w.T, K).ids_NK, top.ids_NK)
ids, weights = ops.sample_support((h @ w.T).detach(), K)
losses = [
    ops.linear_sparse_kl(h, w, top.ids_NK, logp, tail_logp_N=tail),
    ops.sparse_kl(h @ w.T, ids, weights.log(), mode="weights"),
    ops.linear_support_logits(h, w, ids).fold(ids[:, :1]).logsumexp().sum(),
    ops.support_logits(h @ w.T, ids).log_probs().sum(),
    ops.sparse_distill_loss(h, w, ids, lambda s, rows: s.logsumexp()),
]
sum(losses).backward()
ops.gradient_match([h.grad], [torch.ones(N, D)])
ops.gradient_gram(*[torch.randn(2, 3, 4)] * 4)
ops.random_projection(h, 8, seed=0)
assert h.grad.isfinite().all() and w.grad.isfinite().all()
assert set(ops.chosen()) == set(ops.status()), (ops.chosen(), list(ops.status()))
print("every op ran")
"""


def test_every_op_runs_with_torch_alone(tmp_path):
    """A directory of links to those packages and to distill_core is all that `python -I -S` can import from."""
    installed = Path(torch.__file__).resolve().parent.parent
    for name in VISIBLE:
        if (installed / name).exists():
            (tmp_path / name).symlink_to(installed / name)
    (tmp_path / "distill_core").symlink_to(Path(distill_core.__file__).resolve().parent)
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "every op ran"
