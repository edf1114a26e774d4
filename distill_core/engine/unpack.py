"""Stored rows for a batch: decoded on the host, or copied packed to a GPU and decoded there.

Legend: N rows asked for, K support size, M temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_core.ops import dispatch
from distill_core.ops.unpack_rows.cuda import unpack_rows
from distill_core.store import RowArrays, StoreMeta
from distill_core.store.meta import STEP_NAT
from distill_core.store.packed import DEVICE_COLUMNS, PackedRows, words_and_table
from distill_core.store.shard import damaged
from distill_core.types import RowTarget


def unpack(
    parts: Sequence[PackedRows],
    meta: StoreMeta,
    device: torch.device | str,
    *,
    impl: Literal["auto", "reference", "cuda"] = "auto",
) -> RowTarget:
    """Rows of several sequences below each other as tensors on ``device``; no parts: a target of no rows.

    Args:
        parts: from ``StoreReader.packed``.
        meta: of their store.
        device: where the rows are wanted.
        impl: ``reference``: the codec on the host. ``cuda``: the packed bytes (about a fifth of the rows) are copied
            and unpacked on the device; the same ids, and values equal up to the last bit of float32, where the
            device's exp and log round otherwise than the host's. ``auto``: ``cuda`` where it can run.

    Raises:
        StoreError: damaged bytes, naming the shard.
        RuntimeError: ``cuda`` was asked for and cannot run, saying why.

    >>> meta = StoreMeta(vocabulary_size=5, tokenizer_fingerprint="f", teacher="t", method="topk", k=2)
    >>> unpack([], meta, "cpu").ids_NK.shape
    torch.Size([0, 2])
    """
    device = torch.device(device)
    if dispatch.select("unpack_rows", impl, device.type) == "cuda" and parts:
        return unpack_on(device, parts, meta)
    return row_target([part.decode(meta) for part in parts], meta).to(device)


def unpack_on(device: torch.device, parts: Sequence[PackedRows], meta: StoreMeta) -> RowTarget:
    """The rows, unpacked by the kernels on ``device``."""
    words, table = words_and_table(parts)
    with_entropy = all(part.entropy is not None for part in parts)
    ids_RK, values_RK, tail_RM, entropy_R, status_S4 = unpack_rows(
        torch.from_numpy(words).to(device),
        torch.from_numpy(table).to(device),
        rows=sum(part.n_rows for part in parts),
        k=meta.k,
        method=meta.method,
        vocabulary=meta.vocabulary_size,
        temperatures_M=torch.tensor(meta.temperatures, dtype=torch.float64, device=device),
        value_step=STEP_NAT * min(meta.temperatures),
        with_entropy=with_entropy,
    )
    _refuse(status_S4.cpu(), parts)
    exact = meta.kind == "exact"
    whole = RowTarget(
        kind=meta.kind,
        ids_NK=ids_RK,
        temperatures=meta.temperatures,
        logits_NK=values_RK if exact else None,
        tail_NM=tail_RM if exact else None,
        weights_NK=None if exact else values_RK,
        entropy_N=entropy_R if with_entropy else None,
        threshold_N=tail_RM[:, 0] if meta.method == "threshold" else None,
    )
    if all(part.chosen is None for part in parts):
        return whole
    starts = table[:, 0].tolist()
    chosen = [
        start + (np.arange(part.n_rows) if part.chosen is None else part.chosen)
        for start, part in zip(starts, parts, strict=True)
    ]
    return whole[torch.from_numpy(np.concatenate(chosen)).to(device)]


def _refuse(status_S4: Tensor, parts: Sequence[PackedRows]) -> None:
    for part, bits in zip(parts, status_S4.tolist(), strict=True):
        refused = bits[0] | bits[1] | bits[2] | bits[3]
        if refused:
            names = [name for number, name in enumerate(DEVICE_COLUMNS) if refused >> number & 1]
            raise damaged(part.path, f"a sequence cannot be decoded: its columns {names} hold what no writer writes")


def row_target(parts: Sequence[RowArrays], meta: StoreMeta) -> RowTarget:
    """Rows of several sequences below each other as tensors; no parts: a target of no rows.

    Args:
        parts: rows of equal kind, as a store of ``meta`` holds them.
        meta: gives kind, width and temperatures where there are no rows.
    """
    width = max((part.k for part in parts), default=meta.k)

    def column(name: str, fill: float) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        if not values or values[0] is None:
            return None
        return torch.from_numpy(np.concatenate([_widened(value, width, fill, name) for value in values]))

    if not parts:
        return _no_rows(meta)
    ids_NK = column("ids", -1)
    assert ids_NK is not None
    return RowTarget(
        kind=meta.kind,
        ids_NK=ids_NK.long(),
        temperatures=meta.temperatures,
        logits_NK=column("logits", 0.0),
        tail_NM=column("tail", 0.0),
        weights_NK=column("weights", 0.0),
        entropy_N=column("entropy", 0.0),
        threshold_N=column("threshold", 0.0),
    )


def _widened(value: NDArray[Any], width: int, fill: float, name: str) -> NDArray[Any]:
    value = value.astype(np.int64 if name == "ids" else np.float32)
    if name in ("ids", "logits", "weights") and value.shape[1] < width:
        return np.pad(value, ((0, 0), (0, width - value.shape[1])), constant_values=fill)
    return value


def _no_rows(meta: StoreMeta) -> RowTarget:
    empty_NK, exact = torch.zeros(0, meta.k), meta.kind == "exact"
    return RowTarget(
        kind=meta.kind,
        ids_NK=empty_NK.long(),
        temperatures=meta.temperatures,
        logits_NK=empty_NK if exact else None,
        tail_NM=torch.zeros(0, len(meta.temperatures)) if exact else None,
        weights_NK=None if exact else empty_NK,
        entropy_N=None if exact else torch.zeros(0),
        threshold_N=torch.zeros(0) if meta.method == "threshold" else None,
    )
