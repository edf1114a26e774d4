"""Kernels of sparse distillation. Needs torch alone.

| op | meaning |
|---|---|
| `linear_support_logits`, `support_logits` | a student's exact distribution on a sparse teacher's k + 1 outcomes |
| `sparse_distill_loss` | any row-wise loss on support logits, fused with the head |
| `sparse_kl`, `linear_sparse_kl` | KL to a sparse teacher, every variant by name |
| `topk_logits`, `linear_topk_logits` | a teacher's top-k logits with an exact tail |
| `sample_support` | a teacher's sampled support with unbiased weights |
| `gradient_match` | distance between the gradients of synthetic and of real data |
| `gradient_gram` | inner products of per-sample gradients of a linear layer |
| `random_projection` | features on random directions, no matrix stored |
| `status`, `chosen` | which implementations can run, and which ran |
"""

from __future__ import annotations

from .dispatch import chosen, status
from .gradient_gram import gradient_gram
from .gradient_match import gradient_match
from .random_projection import random_projection
from .sample_support import sample_support
from .sparse_distill_loss import sparse_distill_loss
from .sparse_kl import linear_sparse_kl, sparse_kl
from .support_logits import SupportLogits, linear_support_logits, support_logits
from .topk_logits import TopK, linear_topk_logits, topk_logits

__all__ = [
    "SupportLogits",
    "TopK",
    "chosen",
    "gradient_gram",
    "gradient_match",
    "linear_sparse_kl",
    "linear_support_logits",
    "linear_topk_logits",
    "random_projection",
    "sample_support",
    "sparse_distill_loss",
    "sparse_kl",
    "status",
    "support_logits",
    "topk_logits",
]
