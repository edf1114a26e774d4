"""The public interface as it was promised: names, defaults, hooks, commands. A change here is a change for users."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

import distill_core
from distill_core import ops, plugin
from distill_core.registry import get_registry

REQUIRED = inspect.Parameter.empty
HEAD = {"bias": None, "softcap": None, "logit_scale": 1.0}
KL = {"tail_logp_N": None, "mode": "tail", "direction": "forward", "temperature": 1.0, "reduction": "mean"}

OPS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "linear_support_logits": (
        ("hidden_ND", "weight_VD", "ids_NK"),
        {**HEAD, "labels_N": None, "temperatures": (1.0,), "extras": ()},
    ),
    "support_logits": (("logits_NV", "ids_NK"), {"labels_N": None, "temperatures": (1.0,), "extras": ()}),
    "sparse_distill_loss": (
        ("hidden_ND", "weight_VD", "ids_NK", "loss_fn"),
        {**HEAD, "labels_N": None, "temperatures": (1.0,), "extras": (), "params": (), "chunk_rows": None},
    ),
    "sparse_kl": (("logits_NV", "ids_NK", "logp_NK"), KL),
    "linear_sparse_kl": (("hidden_ND", "weight_VD", "ids_NK", "logp_NK"), {**KL, **HEAD}),
    "topk_logits": (("logits_NV", "k"), {"temperatures": (1.0,), "valid_vocab": None}),
    "linear_topk_logits": (
        ("hidden_ND", "weight_VD", "k"),
        {**HEAD, "temperatures": (1.0,), "valid_vocab": None},
    ),
    "sample_support": (
        ("logits_NV", "k"),
        {"method": "threshold", "temperature": 1.0, "seed": 0, "row_keys_N": None, "valid_vocab": None},
    ),
    "gradient_match": (
        ("synthetic", "real"),
        {
            "distance": "cosine",
            "group": "row",
            "eps": 1e-12,
            "eps_mode": "clamp",
            "weights": None,
            "include_vectors": False,
        },
    ),
    "gradient_gram": (("acts_a", "grads_a", "acts_b", "grads_b"), {}),
    "random_projection": (("tensors", "dim"), {"seed": REQUIRED, "kind": "rademacher", "feature_offset": 0}),
}
"""Tensors first, then keyword options with their defaults; every op also takes ``impl="auto"``."""

HOOKS = {
    "distill_components": ["self"],
    "distill_commands": ["self"],
    "distill_check_plan": ["self", "plan"],
    "distill_run_started": ["self", "run"],
    "distill_step_ended": ["self", "run", "step", "metrics"],
    "distill_artifact_saved": ["self", "run", "stage", "path"],
    "distill_run_ended": ["self", "run", "error"],
    "distill_report_sections": ["self", "run"],
}

KINDS = {
    *("teacher", "objective", "synthesizer", "evaluator", "source", "selector"),
    *("schedule", "aggregator", "filter", "rollout", "aligner", "checker"),
}

COMMANDS = {
    *("init", "validate", "schema", "plan", "run", "capture", "synthesize", "select", "train", "evaluate"),
    *("report", "compare", "doctor", "version", "plugins", "store"),
}


@pytest.mark.parametrize("name", OPS)
def test_signature_of_an_op(name: str) -> None:
    positional, options = OPS[name]
    found = inspect.signature(getattr(ops, name)).parameters
    plain = [p.name for p in found.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    keywords = {p.name: p.default for p in found.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert tuple(plain) == positional
    assert keywords == {**options, "impl": "auto"}
    assert len(found) == len(plain) + len(keywords), "no *args, no **kwargs that swallow a misspelling"


def test_every_public_op_is_listed() -> None:
    assert set(ops.__all__) == {*OPS, "SupportLogits", "TopK", "status", "chosen"}
    assert {"ops", "divergence", "register", "hookimpl", "__version__"} <= set(distill_core.__all__)


def test_results_of_ops() -> None:
    support = [field.name for field in dataclasses.fields(ops.SupportLogits)]
    assert support[:4] == ["ids_NK", "temperatures", "support_NK", "tail_NT"]
    assert {"label_N", "mean_N", "entropy_NT", "top1_N"} <= set(support)
    assert all(callable(getattr(ops.SupportLogits, m)) for m in ("log_probs", "logsumexp", "cross_entropy", "fold"))
    assert [field.name for field in dataclasses.fields(ops.TopK)][:3] == ["ids_NK", "logits_NK", "tail_NT"]
    assert callable(ops.TopK.log_probs)


def test_what_plugins_rely_on() -> None:
    hooks = {name: member for name, member in vars(plugin.Hooks).items() if name.startswith("distill_")}
    assert {name: list(inspect.signature(member).parameters) for name, member in hooks.items()} == HOOKS
    assert not any(member.distill_core_spec["firstresult"] for member in hooks.values())
    assert plugin.PROJECT == "distill_core" and set(plugin.KINDS) >= KINDS
    component = inspect.signature(plugin.Component).parameters
    assert list(component) == ["kind", "name", "target", "summary", "options", "needs", "provides", "api"]
    assert component["api"].default == plugin.PLUGIN_API
    registry = get_registry()
    used = {entry.component.kind for entry in registry.components()}
    assert used == set(plugin.KINDS), "a kind without a component, or one that the core does not know"


def test_commands() -> None:
    from typer.main import get_command

    from distill_core.cli.application import GROUPS, app

    assert {*get_command(app).commands, *GROUPS} >= COMMANDS  # type: ignore[attr-defined]
