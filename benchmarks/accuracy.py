"""Errors against fp64 beside torch's own in the same dtype, on peaked, signed inputs and student tails down to 1e-8.

Truth: dense autograd in fp64 on the same rounded inputs. Rivals: log_softmax with the tail by 1 - sum, and log_softmax
with the tail as a logsumexp of its own, both computed in the dtype of the inputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.head_problem import DTYPES
from benchmarks.measure import machine
from benchmarks.result import arguments_of, command_line
from distill_core import ops

WAYS = ("torch, 1 - sum", "torch, own logsumexp", "distill-core")
TAILS = (1e-2, 1e-4, 1e-6, 1e-8)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes; N = 64, V = 4,096, D = 64, k = 16 by default, which takes seconds."""
    for name, default in (("tokens", 64), ("vocabulary", 4096), ("hidden", 64), ("support", 16)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")


def torch_loss(z_NV: Tensor, ids_NK: Tensor, logp_NK: Tensor, tail_logp_N: Tensor, *, complement: bool) -> Tensor:
    """[N] forward KL with its tail; the log-softmax in the dtype of the logits, the teacher in fp32 (fp64 for fp64)."""
    logq_NV = z_NV.log_softmax(1)
    logq_NK = logq_NV.gather(1, ids_NK)
    if complement:
        tail_N = logq_NV.scatter(1, ids_NK, -torch.inf).logsumexp(1)
    else:
        tail_N = (1 - logq_NK.exp().sum(1)).clamp_min(torch.finfo(z_NV.dtype).tiny).log()
    wide = torch.float64 if z_NV.dtype == torch.float64 else torch.float32
    logp_NK, tail_logp_N = logp_NK.to(wide), tail_logp_N.to(wide)
    return (logp_NK.exp() * (logp_NK - logq_NK)).sum(1) + tail_logp_N.exp() * (tail_logp_N - tail_N)


def peaked(options: argparse.Namespace, tail: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Logits of spread 4 with about this mass off the support, and a teacher with three times that tail."""
    generator = torch.Generator().manual_seed(0)
    n, v, k = options.tokens, options.vocabulary, options.support
    z_NV = torch.randn(n, v, generator=generator, dtype=torch.float64) * 4
    ids_NK = torch.rand(n, v, generator=generator).argsort(1)[:, :k]
    inside_N1 = z_NV.gather(1, ids_NK).logsumexp(1, keepdim=True)
    outside_N1 = z_NV.scatter(1, ids_NK, -torch.inf).logsumexp(1, keepdim=True)
    shift_N1 = outside_N1 - inside_N1 + torch.tensor(1 / tail - 1, dtype=torch.float64).log()
    z_NV = z_NV.scatter_add(1, ids_NK, shift_N1.expand_as(ids_NK)).sub(shift_N1 / 2)
    logp_NK = torch.randn(n, k, generator=generator, dtype=torch.float64).log_softmax(1)
    share = torch.tensor(3 * tail, dtype=torch.float64)
    return z_NV.to(dtype), ids_NK, (logp_NK + torch.log1p(-share)).float(), share.log().float().expand(n)


def error(found: Tensor, truth: Tensor) -> float:
    """Norm of the difference over norm of the truth; both sums in fp64."""
    return float((found.double() - truth).norm() / truth.norm())


def errors(found: dict[str, dict[str, Tensor]], quantity: str, truth: Tensor) -> dict[str, float]:
    """Of every way, to four digits."""
    return {way: float(f"{error(found[way][quantity], truth):.3e}") for way in WAYS}


def on_logits(options: argparse.Namespace, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """`sparse_kl` at each tail: value, gradient on the support, gradient off it."""
    for tail in TAILS:
        z_NV, ids_NK, logp_NK, tail_logp_N = peaked(options, tail, dtype)
        given = {"dtype": str(dtype).removeprefix("torch."), "op": "sparse_kl", "tail": f"{tail:.0e}"}

        def parts(loss: Callable[[Tensor], Tensor], z_NV: Tensor, ids_NK: Tensor = ids_NK) -> dict[str, Tensor]:
            leaf = z_NV.detach().requires_grad_()
            value = loss(leaf)
            (d_NV,) = torch.autograd.grad(value.sum(), leaf)
            off_NV = d_NV.scatter(1, ids_NK, 0.0)
            return {"value": value.detach(), "gradient, support": d_NV.gather(1, ids_NK), "gradient, rest": off_NV}

        def plain(z: Tensor, complement: bool, target: tuple[Tensor, ...] = (ids_NK, logp_NK, tail_logp_N)) -> Tensor:
            return torch_loss(z, *target, complement=complement)

        def own(z: Tensor, target: tuple[Tensor, ...] = (ids_NK, logp_NK, tail_logp_N)) -> Tensor:
            ids, logp, tail_logp = target
            return ops.sparse_kl(z, ids, logp, tail_logp_N=tail_logp, reduction="none")

        truth = parts(lambda z, plain=plain: plain(z, True), z_NV.double())  # type: ignore[misc]
        found = {
            WAYS[0]: parts(lambda z, plain=plain: plain(z, False), z_NV),  # type: ignore[misc]
            WAYS[1]: parts(lambda z, plain=plain: plain(z, True), z_NV),  # type: ignore[misc]
            WAYS[2]: parts(own, z_NV),
        }
        for quantity, exact in truth.items():
            yield {
                **given,
                "quantity": quantity,
                **errors(found, quantity, exact),
            }


def on_hidden_states(options: argparse.Namespace, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """`linear_sparse_kl`: value and both gradients, logits of spread 6, support where the student is large."""
    generator = torch.Generator().manual_seed(0)
    n, v, d, k = options.tokens, options.vocabulary, options.hidden, options.support
    hidden_ND = torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)
    weight_VD = (torch.randn(v, d, generator=generator, dtype=torch.float64) * 6 * d**-0.5).to(dtype)
    ids_NK = (hidden_ND.double() @ weight_VD.double().T).topk(k).indices
    logp_NK1 = torch.randn(n, k + 1, generator=generator, dtype=torch.float64).log_softmax(1)
    target = ids_NK, logp_NK1[:, :-1].float(), logp_NK1[:, -1].float()

    def parts(
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        wide: bool = False,
        total: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        leaves = [(x.double() if wide else x).detach().requires_grad_() for x in (hidden_ND, weight_VD)]
        value = loss(*leaves)
        d_hidden, d_weight = torch.autograd.grad((total or loss)(*leaves).sum(), leaves)
        return {"value": value.detach(), "gradient, hidden states": d_hidden, "gradient, weight": d_weight}

    def own(h: Tensor, w: Tensor, reduction: Literal["none", "sum"] = "none") -> Tensor:
        return ops.linear_sparse_kl(h, w, ids_NK, target[1], tail_logp_N=target[2], reduction=reduction)

    truth = parts(lambda h, w: torch_loss(h @ w.T, *target, complement=True), wide=True)
    found = {
        WAYS[0]: parts(lambda h, w: torch_loss(h @ w.T, *target, complement=False)),
        WAYS[1]: parts(lambda h, w: torch_loss(h @ w.T, *target, complement=True)),
        # The gradients of a scalar loss are those that its forward pass takes.
        WAYS[2]: parts(own, total=partial(own, reduction="sum")),
    }
    given = {"dtype": str(dtype).removeprefix("torch."), "op": "linear_sparse_kl", "tail": ""}
    for quantity, exact in truth.items():
        yield {
            **given,
            "quantity": quantity,
            **errors(found, quantity, exact),
        }


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All errors, for fp32 and bf16."""
    rows = [
        row
        for name in ("float32", "bfloat16")
        for part in (on_logits, on_hidden_states)
        for row in part(options, DTYPES[name])
    ]
    return {
        "benchmark": "accuracy",
        "command": command_line(options),
        "machine": machine(),
        "arguments": arguments_of(options),
        "implementations": ops.chosen(),
        "measurements": rows,
    }


def table(result: dict[str, Any]) -> str:
    """Markdown: relative errors, and ours over the better of torch's two."""
    lines = [
        "| op | dtype | student's tail | quantity | " + " | ".join(WAYS) + " | of torch's better |",
        "|---|---|---:|---|" + "---:|" * (len(WAYS) + 1),
    ]
    for row in result["measurements"]:
        best = min(row[way] for way in WAYS[:2])
        share = f"{row[WAYS[2]] / best:.2f}" if best > 0 else "" if row[WAYS[2]] > 0 else "both exact"
        cells = [row["op"], row["dtype"], row["tail"], row["quantity"], *(f"{row[way]:.1e}" for way in WAYS), share]
        lines.append("| " + " | ".join(cells) + " |")
    return f"Relative errors, |x - truth| / |truth|; {result['machine']}.\n\n" + "\n".join(lines)
