"""A student's head beside a teacher's: hidden states, weights, and the teacher's top-k with its exact tail.

Legend: N rows, V vocabulary, D hidden, K support.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_core import ops

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class HeadProblem:
    """Student tensors in the dtype measured, wanting gradients; the teacher's in fp32, logits of spread 3."""

    hidden_ND: Tensor
    weight_VD: Tensor
    teacher_hidden_ND: Tensor
    teacher_weight_VD: Tensor
    ids_NK: Tensor
    logp_NK: Tensor
    tail_logp_N: Tensor

    @classmethod
    def random(cls, rows: int, vocabulary: int, hidden: int, support: int, dtype: torch.dtype) -> HeadProblem:
        """The same numbers for the same sizes."""
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            return torch.randn(*shape, generator=generator, dtype=wide)

        hidden_ND, weight_VD = normal(rows, hidden), normal(vocabulary, hidden) * 3 * hidden**-0.5
        teacher_hidden_ND, teacher_weight_VD = normal(rows, hidden), normal(vocabulary, hidden) * 3 * hidden**-0.5
        top = ops.linear_topk_logits(teacher_hidden_ND, teacher_weight_VD, support)
        logp_NK, tail_logp_N = top.log_probs()
        return cls(
            hidden_ND.to(dtype).requires_grad_(),
            weight_VD.to(dtype).requires_grad_(),
            teacher_hidden_ND,
            teacher_weight_VD,
            top.ids_NK,
            logp_NK.contiguous(),
            tail_logp_N.contiguous(),
        )

    @classmethod
    def of(cls, options: argparse.Namespace) -> HeadProblem:
        return cls.random(options.tokens, options.vocabulary, options.hidden, options.support, DTYPES[options.dtype])

    def with_gradients(self, loss: Tensor) -> tuple[Tensor, ...]:
        """(loss, gradient of the hidden states, gradient of the weight)."""
        return (loss, *torch.autograd.grad(loss, (self.hidden_ND, self.weight_VD)))


def add_size_options(parser: argparse.ArgumentParser, **sizes: int) -> None:
    """`--tokens`, `--vocabulary`, ... with these defaults, and `--dtype`."""
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of what the student computes in")
