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
            over=("tokens", "classes"),
        ),
        teacher(
            "hf-classifier",
            "distill_teachers.hf_classifier:HFClassifier",
            summary="a Transformers classifier of texts, tokens or images, for runs with a task",
            options="distill_teachers.options:HFClassifierOptions",
            signals=("targets", "hidden_states", "attentions", "queries", "keys", "values"),
            over=("classes",),
        ),
    ]
