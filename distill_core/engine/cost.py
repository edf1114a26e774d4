"""What a run cost: teacher tokens, bytes per label, steps, tokens and time of trainings, time of every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.engine.manifest import Manifest
from distill_core.store import StoreInfo


def cost_of(
    manifests: Mapping[str, Manifest], stores: Mapping[str, StoreInfo], steps: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """The section ``cost`` of ``results.json``.

    Args:
        manifests: of finished stages, by name.
        stores: captured stores by name (``capture``, or ``capture/teacher`` where several were captured together).
        steps: lines of ``metrics.jsonl`` by training.

    Returns:
        ``stages``: seconds and processor seconds of each, over all attempts. ``labels``: of each store, teacher tokens,
        rows, bytes and bytes per row. ``trainings``: steps, tokens trained on and seconds of each.
    """
    return {
        "stages": {
            name: {"seconds": one.seconds, "cpu_seconds": one.cpu_seconds, "attempts": one.attempts}
            for name, one in manifests.items()
        },
        "labels": {
            name: {
                "teacher_tokens": info.n_tokens,
                "rows": info.n_rows,
                "bytes": info.n_bytes,
                "bytes_per_row": info.bytes_per_row if info.n_rows else None,
            }
            for name, info in stores.items()
        },
        "trainings": {
            name: {
                "steps": manifests[f"train:{name}"].notes.get("steps"),
                "tokens": sum(int(line.get("tokens", 0)) for line in lines),
                "seconds": manifests[f"train:{name}"].seconds,
            }
            for name, lines in steps.items()
            if f"train:{name}" in manifests
        },
    }
