"""Every Triton kernel with the constants that the launchers give it on a chip: what the `aot` lane compiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from distill_core.ops.sample_support import row_kernels as sample_kernels
from distill_core.ops.sparse_kl import row_kernels as kl_kernels
from distill_core.ops.sparse_kl.reference import MODES
from distill_core.ops.support_logits import head_kernels, row_kernels
from distill_core.ops.support_logits.triton_head import REDUCED_ROWS, REDUCED_TILES
from distill_core.ops.topk_logits import head_kernels as topk_head_kernels
from distill_core.ops.topk_logits import row_kernels as topk_kernels
from distill_core.ops.topk_logits.triton import widths
from distill_core.ops.topk_logits.triton_head import CANDIDATES, FUSED_K
from distill_core.ops.triton_configs import ALIGNED, CHIPS, GROUP_ROWS, Chip, Rows, Sample, TopK

K, T, V = 64, 1, 128_256


class Case(NamedTuple):
    """One kernel, specialised."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, int]
    divisible: tuple[str, ...]
    uses_matrix: bool = False
    streams: bool = False
    """Reads rows or tiles of logits: must do so by vectors."""


def _types(kernel: Any, **given: str) -> dict[str, str]:
    """fp32 pointers and int32 numbers unless given."""
    return {n: given.get(n, "*fp32" if n.endswith("_ptr") else "i32") for n in kernel.arg_names}


def _divisible(kernel: Any, *but: str) -> tuple[str, ...]:
    return tuple(n for n in kernel.arg_names if (n.endswith("_ptr") or n in ("K",)) and n not in but)


IDS = {"ids_ptr": "*i64", "sorted_ptr": "*i32", "labels_ptr": "*i64", "top1_ptr": "*i64"}


def _rows(rows: Rows, back: Rows) -> Iterator[Case]:
    forward, backward = row_kernels.rows_forward, row_kernels.rows_backward
    shared = {"T": T, "BLOCK_K": K, "ALIGNED": ALIGNED}
    flags = {"LABELS": True, "MEAN": False, "ENTROPY": False, "TOP1": False}
    for dtype in ("bf16", "fp32"):
        for strides in ("even", "odd"):
            sizes = ("stride_z", "stride_dz", "V") if strides == "even" else ()
            yield Case(
                f"rows_forward {dtype} {strides} V",
                forward,
                _types(forward, z_ptr=f"*{dtype}", stride_z="i64", **IDS),
                {**shared, **flags, "BLOCK_V": rows.columns, "BLOCK_T": 1},
                {"num_warps": rows.warps},
                (*_divisible(forward), *sizes),
                streams=True,
            )
            yield Case(
                f"rows_backward {dtype} {strides} V",
                backward,
                _types(backward, z_ptr=f"*{dtype}", dz_ptr=f"*{dtype}", inv_cap="fp32", scale="fp32", **IDS),
                {**shared, "LABELS": True, "MEAN": False, "ENTROPY": False, "CAP": False, "ALIKE": True}
                | {"BLOCK_V": back.columns},
                {"num_warps": back.warps},
                (*_divisible(backward), *sizes),
                streams=True,
            )
    yield Case(
        "rows_forward bf16 every extra",
        forward,
        _types(forward, z_ptr="*bf16", stride_z="i64", **IDS),
        {**shared, "LABELS": True, "MEAN": True, "ENTROPY": True, "TOP1": True}
        | {"BLOCK_V": rows.columns, "BLOCK_T": 2, "T": 2},
        {"num_warps": rows.warps},
        _divisible(forward),
        streams=True,
    )
    yield Case(
        "rows_backward fp32 every extra, cap",
        backward,
        _types(backward, inv_cap="fp32", scale="fp32", **IDS),
        {**shared, "LABELS": True, "MEAN": True, "ENTROPY": True, "CAP": True, "ALIKE": True}
        | {"BLOCK_V": back.columns, "T": 2},
        {"num_warps": back.warps},
        _divisible(backward),
        streams=True,
    )


def _head(chip: Chip) -> Iterator[Case]:
    forward, reduce = head_kernels.head_forward, head_kernels.reduce_tiles
    for dtype, size in (("bf16", chip.head16), ("fp32", chip.head32)):
        constants = {"T": T, "BLOCK_M": size.rows, "BLOCK_V": size.columns, "BLOCK_D": size.depth, "EVEN_D": True}
        flags = {"GROUP_M": GROUP_ROWS, "BIAS": True, "CAP": True, "LABELS": True, "UPCAST": False}
        types = {"h_ptr": f"*{dtype}", "w_ptr": f"*{dtype}", "bias_ptr": f"*{dtype}", "labels_ptr": "*i64"}
        types |= {"sorted_ptr": "*i32", "order_ptr": "*i32", "starts_ptr": "*i32", "cap": "fp32", "scale": "fp32"}
        yield Case(
            f"head_forward {dtype} {size.rows}x{size.columns}x{size.depth}",
            forward,
            _types(forward, **types),
            {**constants, **flags, "PRECISION": size.precision},
            {"num_warps": size.warps, "num_stages": size.stages},
            (*_divisible(forward), "D", "stride_h", "stride_w"),
            uses_matrix=True,
            streams=True,
        )
    yield Case(
        "reduce_tiles",
        reduce,
        _types(reduce),
        {"T": T, "BLOCK_R": REDUCED_ROWS, "BLOCK_S": REDUCED_TILES},
        {"num_warps": 4},
        (*_divisible(reduce), "N"),
    )


def _topk(size: TopK) -> Iterator[Case]:
    maxima, select = topk_kernels.block_maxima, topk_kernels.select_topk
    width, per_program, lanes = widths(size, K)
    yield Case(
        "block_maxima bf16 odd V",
        maxima,
        _types(maxima, z_ptr="*bf16", stride_z="i64"),
        {"T": T, "BLOCKS": per_program, "WIDTH": width, "ALIGNED": ALIGNED},
        {"num_warps": size.warps},
        _divisible(maxima),
        streams=True,
    )
    yield Case(
        f"select_topk bf16 k={K} V={V}",
        select,
        _types(select, z_ptr="*bf16", ids_ptr="*i64", stride_z="i64"),
        {"T": T, "BLOCK_B": 1 << (V // width).bit_length(), "BLOCK_K": lanes, "WIDTH": width, "ALIGNED": ALIGNED},
        {"num_warps": size.warps},
        _divisible(select),
    )


def _topk_head(chip: Chip) -> Iterator[Case]:
    tile, merge = topk_head_kernels.head_topk, topk_head_kernels.merge_topk
    for dtype, size in (("bf16", chip.topk16), ("fp32", chip.topk32)):
        types = {"h_ptr": f"*{dtype}", "w_ptr": f"*{dtype}", "bias_ptr": f"*{dtype}", "key_ptr": "*i64"}
        sizes = {"T": T, "BLOCK_M": size.rows, "BLOCK_V": size.columns, "BLOCK_D": size.depth, "GROUP_M": GROUP_ROWS}
        yield Case(
            f"head_topk {dtype} {size.rows}x{size.columns}x{size.depth}",
            tile,
            _types(tile, cap="fp32", scale="fp32", **types),
            {**sizes, "EVEN_D": True, "BIAS": True, "CAP": True, "PRECISION": size.precision, "UPCAST": False},
            {"num_warps": size.warps, "num_stages": size.stages},
            (*_divisible(tile, "K"), "D", "stride_h", "stride_w"),
            uses_matrix=True,
            streams=True,
        )
    tiles = -(-V // chip.topk16.columns)
    yield Case(
        f"merge_topk k={FUSED_K} V={V}",
        merge,
        _types(merge, key_ptr="*i64", ids_ptr="*i64"),
        {"T": T, "BLOCK_C": CANDIDATES, "BLOCK_K": FUSED_K, "BLOCK_S": 1 << (tiles - 1).bit_length()},
        {"num_warps": 8},
        _divisible(merge, "K"),
    )


def _sample(size: Sample) -> Iterator[Case]:
    masses, plan = sample_kernels.block_masses, sample_kernels.plan_threshold
    points, draws = sample_kernels.hit_points, sample_kernels.count_draws
    types = {"z_ptr": "*bf16", "stride_z": "i64", "inv_t_ptr": "*fp64", "mass_ptr": "*i64", "strange_ptr": "*i32"}
    types |= {"certain_ptr": "*i32", "ids_ptr": "*i64", "top_ids_ptr": "*i64", "hit_ptr": "*i64"}
    types |= {"keys_ptr": "*i64", "seed_ptr": "*i64"}
    warps = {"num_warps": size.warps}
    for strange in (True, False):
        yield Case(
            f"block_masses bf16 odd V{', strange ids' if strange else ''}",
            masses,
            _types(masses, **types),
            {"BLOCKS": size.columns // size.width, "WIDTH": size.width, "ALIGNED": ALIGNED, "STRANGE": strange},
            warps,
            _divisible(masses),
            streams=True,
        )
    yield Case(
        f"plan_threshold k={K}", plan, _types(plan, **types), {"BLOCK_K": K, "BLOCK_B": size.blocks}, warps,
        _divisible(plan),
    )  # fmt: skip
    for even in (True, False):
        yield Case(
            f"hit_points bf16 {'even' if even else 'multinomial'} points",
            points,
            _types(points, **types),
            {"EVEN": even, "POINTS": size.points, "WIDTH": size.width, "BLOCK_B": size.blocks, "ALIGNED": ALIGNED},
            warps,
            _divisible(points),
        )
    yield Case(
        f"count_draws k={K}", draws, _types(draws, **types), {"BLOCK_K": K, "BLOCK_B": size.blocks}, warps,
        _divisible(draws),
    )  # fmt: skip


def _sparse_kl(rows: Rows) -> Iterator[Case]:
    kernel = kl_kernels.kl_rows
    types = {"stride_z": "i64", "ids_ptr": "*i64", "sorted_ptr": "*i32"}
    types |= {f"{name}_ptr": "*fp64" for name in ("logp", "logt", "scale", "upstream", "loss")}
    flags = {"GIVEN": True, "GRADIENT": True, "UPSTREAM": True, "ALIKE": True, "ALIGNED": ALIGNED}
    for dtype, mode, reverse in (("bf16", 0, False), ("fp32", 0, True), ("bf16", 3, True), ("fp32", 2, False)):
        yield Case(
            f"kl_rows {dtype} {MODES[mode]} {'reverse' if reverse else 'forward'} odd V",
            kernel,
            _types(kernel, z_ptr=f"*{dtype}", dz_ptr=f"*{dtype}", **types),
            {**flags, "MODE": mode, "REVERSE": reverse, "BLOCK_V": rows.columns, "BLOCK_K": K},
            {"num_warps": rows.warps},
            _divisible(kernel),
            streams=True,
        )


def cases(chip: str) -> Iterator[Case]:
    """All cases of a chip."""
    sizes = CHIPS[chip]
    yield from _rows(sizes.rows, sizes.rows_back)
    yield from _head(sizes)
    yield from _topk(sizes.topk)
    yield from _sample(sizes.sample)
    yield from _sparse_kl(sizes.rows)
    yield from _topk_head(sizes)
