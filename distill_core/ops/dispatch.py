"""Which implementation of an op runs: `impl="auto"` picks one and records it, an explicit `impl` runs or raises.

A kernel joins by one call, `offer(op, impl, probe, devices=..., dtypes=...)`, and a branch on `select`'s answer in the
op's folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypedDict

import torch

from .native_build import why_not_built

Impl = Literal["auto", "reference", "cpu", "triton", "cuda"]

# Fastest first: the order in which "auto" tries.
IMPLEMENTATIONS = ("cuda", "triton", "cpu", "reference")
_DEVICES = {"cuda": ("cuda",), "triton": ("cuda",), "cpu": ("cpu",), "reference": ()}


class Availability(TypedDict):
    """One cell of `status()`: can it run here, and why (not)."""

    available: bool
    reason: str


Probe = Callable[[], tuple[bool, str]]


def asked_once(probe: Probe) -> Probe:
    """A probe whose answer torch.compile keeps, instead of tracing into files and shared libraries.

    What `torch.compiler.assume_constant_result` does, without its import of the compiler, which takes seconds.
    """
    answer = functools.cache(probe)

    def ask() -> tuple[bool, str]:
        return answer()

    setattr(ask, "_dynamo_marked_constant", True)  # noqa: B010 - mypy knows no attributes of functions
    return ask


class Offer(NamedTuple):
    """One implementation: its probe, and the devices and dtypes it takes (none named: all).

    On devices `on_request` it runs when asked for by name, and "auto" never takes it.
    """

    probe: Probe
    devices: tuple[str, ...]
    dtypes: tuple[torch.dtype, ...]
    on_request: tuple[str, ...] = ()


_offered: dict[str, dict[str, Offer]] = {}
_chosen: dict[str, str] = {}


class Status(dict[str, dict[str, Availability]]):
    """op -> implementation -> `{"available", "reason"}`; printing it gives a table."""

    def __str__(self) -> str:
        lines = [f"{'op':24}{'implementation':16}{'can run':9}why"]
        for op, cells in self.items():
            for impl, cell in cells.items():
                lines.append(f"{op:24}{impl:16}{'yes' if cell['available'] else 'no':9}{cell['reason']}")
        return "\n".join(lines)


def offer(
    op: str,
    impl: str,
    probe: Probe,
    *,
    devices: tuple[str, ...] | None = None,
    dtypes: tuple[torch.dtype, ...] = (),
    on_request: tuple[str, ...] = (),
) -> None:
    """Register an implementation of `op`; `probe()` says whether it can run and why.

    `devices=()` and `dtypes=()` stand for every device and every dtype. On the devices `on_request` it runs only when
    asked for by name.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"offer: impl must be one of {IMPLEMENTATIONS}; got {impl!r}")
    _offered.setdefault(op, {})[impl] = Offer(probe, _DEVICES[impl] if devices is None else devices, dtypes, on_request)


def _always() -> tuple[bool, str]:
    return True, "plain torch, runs on every device"


def declare(op: str) -> None:
    """Make `op` known with its reference implementation."""
    offer(op, "reference", _always)


def _availability(
    op: str,
    impl: str,
    device_type: str | None = None,
    dtypes: tuple[torch.dtype, ...] = (),
    *,
    by_name: bool = False,
) -> tuple[bool, str]:
    if impl not in _offered[op]:
        why = why_not_built(impl)
        return False, f"no {impl} kernel for {op} is installed" + (f" ({why})" if why else "")
    offered = _offered[op][impl]
    devices = offered.devices + offered.on_request if by_name and offered.devices else offered.devices
    if device_type is not None and devices and device_type not in devices:
        return False, f"the {impl} kernel runs on {' and '.join(offered.devices)} tensors, these are on {device_type}"
    for dtype in dtypes:
        if offered.dtypes and dtype not in offered.dtypes:
            return False, f"the {impl} kernel takes {', '.join(map(str, offered.dtypes))}; got {dtype}"
    return offered.probe()


def select(op: str, impl: str, device_type: str, *dtypes: torch.dtype, unfit: Mapping[str, str] | None = None) -> str:
    """The implementation that runs for tensors of this device and these dtypes; records what "auto" chose.

    `unfit`: implementation -> why it cannot take this very call.

    Raises `ValueError` for an unknown name and `RuntimeError` for one that cannot run.
    """
    if impl != "auto" and impl not in IMPLEMENTATIONS:
        raise ValueError(f"{op}: impl must be one of {('auto', *reversed(IMPLEMENTATIONS))}; got {impl!r}")
    unfit = unfit or {}
    if impl != "auto":
        can_run, reason = _availability(op, impl, device_type, dtypes, by_name=True)
        if can_run and impl in unfit:
            can_run, reason = False, unfit[impl]
        if not can_run:
            raise RuntimeError(
                f'{op}: impl="{impl}" cannot run: {reason}. '
                f'Use impl="auto" or impl="reference"; print(distill_core.ops.status()) lists what can run here.'
            )
        return impl
    for candidate in IMPLEMENTATIONS:
        if candidate not in _offered[op] or candidate in unfit:
            continue
        if _availability(op, candidate, device_type, dtypes)[0]:
            _chosen[op] = candidate
            return candidate
    raise RuntimeError(f"{op}: no implementation can run on {device_type} tensors")


def chosen() -> dict[str, str]:
    """op -> implementation that `impl="auto"` chose last, for the ops called so far in this process.

    >>> from distill_core import ops
    >>> isinstance(ops.chosen(), dict)
    True
    """
    return dict(_chosen)


def status() -> Status:
    """Which implementations can run in this process, and why the others cannot.

    Returns a dict op -> implementation -> `{"available": bool, "reason": str}` that prints as a table.

    >>> from distill_core import ops
    >>> ops.status()["topk_logits"]["reference"]["available"]
    True
    """
    table = Status()
    for op in sorted(_offered):
        table[op] = {}
        for impl in reversed(IMPLEMENTATIONS):
            can_run, reason = _availability(op, impl)
            table[op][impl] = {"available": can_run, "reason": reason}
    return table
