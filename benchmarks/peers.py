"""Losses of installed peers (`make bench-setup`), called as their trainers call them.

A peer that is not installed, or whose function has moved, is `Absent` with the reason.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.case import Absent, Case, Run
from benchmarks.head_problem import HeadProblem

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
INSTALL = "make bench-setup"


def found(module: str, name: str) -> Any:
    """An attribute of a peer's module; `ImportError` or `AttributeError` where it is not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module(module), name)


def peer(
    module: str, name: str, build: Callable[[Any], Run], computes: str, *, same: bool = False, compiled: bool = False
) -> Case | Absent:
    """A case made of a peer's function, or why there is none."""
    try:
        function = found(module, name)
    except ModuleNotFoundError as error:
        return Absent(f"{error.name} is not installed ({INSTALL})")
    except (ImportError, AttributeError) as error:
        return Absent(f"{module}.{name} cannot be imported: {error}")
    return Case(lambda: build(function), computes, same, compiled)


def liger(p: HeadProblem, *, compiled: bool) -> Case | Absent:
    """Liger's chunked JSD at beta = 0, which it defines as the forward KL, to a teacher with a head of its own."""

    def build(loss_class: Any) -> Run:
        # Its backward takes a gradient of 1 out, so the chunks' gradients are handed on as they are.
        loss = loss_class(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=compiled, chunk_size=256)
        labels_N = torch.zeros(len(p.hidden_ND), dtype=torch.int64)
        teacher = p.teacher_hidden_ND.to(p.hidden_ND.dtype), p.teacher_weight_VD.to(p.hidden_ND.dtype)
        return lambda: p.with_gradients(loss(p.hidden_ND, p.weight_VD, *teacher, labels_N))

    return peer(
        "liger_kernel.chunked_loss.jsd_loss",
        "LigerFusedLinearJSDLoss",
        build,
        "KL to a dense teacher, the teacher's product included",
        compiled=compiled,
    )


def trl_server(p: HeadProblem) -> Case | Absent:
    """TRL's sparse forward KL of its server distillation: log_softmax of all logits, tail by 1 - sum."""

    def build(trainer_class: Any) -> Run:
        trainer = SimpleNamespace(loss_add_tail=True, _reduce_divergence_loss=trainer_class._reduce_divergence_loss)
        teacher = {"topk_logprobs": p.logp_NK[None], "topk_token_ids": p.ids_NK[None]}
        labels_1N = torch.zeros(1, len(p.hidden_ND), dtype=torch.int64)
        step = partial(trainer_class._compute_server_forward_kl_loss, trainer, teacher)

        def run() -> Any:
            logits_1NV = (p.hidden_ND @ p.weight_VD.T)[None]
            return p.with_gradients(step(F.log_softmax(logits_1NV.float(), dim=-1), labels_1N))

        return run

    module = "trl.experimental.server_distillation.server_distillation_trainer"
    return peer(module, "ServerDistillationTrainer", build, "KL with tail, 1 - sum", same=True)


def trl_chunked(p: HeadProblem) -> Case | Absent:
    """TRL's chunked loss of its asynchronous distillation: 256 rows at a time, checkpointed, metrics included."""

    def build(function: Any) -> Run:
        present_NK = torch.ones_like(p.ids_NK, dtype=torch.bool)

        def run() -> Any:
            found = function(
                p.hidden_ND, p.weight_VD, None, 1.0, None, p.ids_NK, p.logp_NK, present_NK, 0.0, 1.0, True, None, 1, 256
            )
            return p.with_gradients(found[0] / len(p.hidden_ND))

        return run

    module = "trl.experimental.async_distillation.async_distillation_trainer"
    return peer(module, "_chunked_jsd_loss", build, "KL with tail, 1 - sum, and entropies", same=True)


def trl_gkd(p: HeadProblem) -> Case | Absent:
    """TRL's GKD loss at beta = 0, the forward KL, on logits of both models; the teacher's are there before."""

    def build(trainer_class: Any) -> Run:
        teacher_1NV = (p.teacher_hidden_ND @ p.teacher_weight_VD.T).to(p.hidden_ND.dtype)[None]
        labels_1N = torch.zeros(1, len(p.hidden_ND), dtype=torch.int64)

        def run() -> Any:
            logits_1NV = (p.hidden_ND @ p.weight_VD.T)[None]
            return p.with_gradients(
                trainer_class.generalized_jsd_loss(logits_1NV, teacher_1NV, labels=labels_1N, beta=0.0)
            )

        return run

    return peer("trl.experimental.gkd.gkd_trainer", "GKDTrainer", build, "KL to a dense teacher, its logits given")


def linear_cross_entropy(p: HeadProblem) -> Case | Absent:
    """torch's own chunked head, on hard labels."""

    def build(function: Any) -> Run:
        options = torch.nn.LinearCrossEntropyOptions()
        labels_N = p.ids_NK[:, 0].contiguous()
        return lambda: p.with_gradients(function(p.hidden_ND, p.weight_VD, labels_N, options=options))

    return peer("torch.nn.functional", "linear_cross_entropy", build, "cross-entropy with hard labels")
