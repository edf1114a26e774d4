"""Entry module: declares the components; imports neither torch nor the teachers themselves."""

from __future__ import annotations

from collections.abc import Sequence

from distill_core.plugin import Component, hookimpl, teacher


@hookimpl
def distill_components() -> Sequence[Component]:
    return [
        teacher(
            "hf",
            "distill_teachers.hf:HFTeacher",
            summary="any Transformers causal language model: directory, hub id, GGUF file, or GGUF inside a package",
            options="distill_teachers.options:HFOptions",
            signals=("targets", "hidden_states", "attentions", "queries", "keys", "values"),
        ),
        teacher(
            "store",
            "distill_teachers.store:StoreTeacher",
            summary="signals captured before, from a store directory; the teacher's weights are not needed",
            options="distill_teachers.options:StoreOptions",
            signals=("targets",),
        ),
        teacher(
            "ema",
            "distill_teachers.ema:EMATeacher",
            summary="the student's own weights averaged over its steps; live only",
            options="distill_teachers.options:EMAOptions",
            signals=("targets", "hidden_states", "attentions", "queries", "keys", "values"),
        ),
    ]
