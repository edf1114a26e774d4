"""Entry module: declares the components; imports neither torch nor the components themselves."""

from __future__ import annotations

from collections.abc import Sequence

from distill_core.plugin import Component, component, hookimpl


@hookimpl
def distill_components() -> Sequence[Component]:
    return [
        component(
            "source",
            "text-files",
            "distill_synthesis.text_files:TextFiles",
            summary="text files by path, glob or installed package; picked by name or by a number in the name",
            options="distill_synthesis.options:TextFilesOptions",
        ),
        component(
            "source",
            "jsonl",
            "distill_synthesis.jsonl:JsonLines",
            summary="JSON lines: text, prompt and completion, or messages",
            options="distill_synthesis.options:JsonLinesOptions",
        ),
        component(
            "source",
            "hf-dataset",
            "distill_synthesis.hf_dataset:HFDataset",
            summary="a Hugging Face dataset: hub id, or a directory on disk",
            options="distill_synthesis.options:HFDatasetOptions",
        ),
        component(
            "synthesizer",
            "sequence-kd",
            "distill_synthesis.sequence_kd:SequenceKD",
            summary="the teacher's own completions of the records' prompts, kept on disk as they come",
            options="distill_synthesis.sequence_kd_options:SequenceKDOptions",
            signals=("text",),
        ),
        component(
            "source",
            "table",
            "distill_synthesis.table:Table",
            summary="CSV, TSV and JSON tables by path or installed package; columns by name, number or range",
            options="distill_synthesis.options:TableOptions",
        ),
        component(
            "filter",
            "exact-dedup",
            "distill_synthesis.exact_dedup:ExactDedup",
            summary="keeps the first of records with the same content",
            options="distill_synthesis.options:ExactDedupOptions",
        ),
    ]
