"""Declares the objective, under a name that other plugins may use too and under one that is its own."""

from __future__ import annotations

from distill_core.plugin import Component, hookimpl, objective


@hookimpl
def distill_components() -> list[Component]:
    target, summary = "distill_hello.losses:total_variation", "half the absolute difference of the probabilities"
    return [objective(name, target, summary=summary) for name in ("total-variation", "hello-total-variation")]
