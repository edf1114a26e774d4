"""Compiles every Triton kernel ahead of time for several chips, without a GPU or a driver, and reads what came out.

    python -m tests.triton.compile_report            a table
    python -m tests.triton.compile_report --write    rewrites baseline.json, which the `aot` lane compares with

Registers, spills, shared memory, and counts of matrix and vector instructions. Pointers and sizes are marked divisible
by 16 where the launcher's usual arguments are; `odd` cases mark the vocabulary and the row stride as indivisible.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from tests.triton.kernel_cases import Case, cases

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
BASELINE = Path(__file__).with_name("baseline.json")
# Bytes of shared memory one program may use (CUDA C++ programming guide, compute capabilities; CDNA 3 ISA: LDS).
SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}


def target(name: str) -> GPUTarget:
    """Triton's description of a chip."""
    return GPUTarget("cuda", int(name[3:]), 32) if name.startswith("sm_") else GPUTarget("hip", name, 64)


def source(case: Case) -> ASTSource:
    """The kernel with its types; what is marked divisible by 16 is what the launcher would specialise on."""
    names = case.kernel.arg_names
    signature = {n: "constexpr" if n in case.constants else case.types[n] for n in names}
    divisible = [n for n in names if n in case.divisible and n not in case.constants]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in divisible}
    return ASTSource(fn=case.kernel, signature=signature, constexprs=dict(case.constants), attrs=attributes)


def _count(pattern: str, text: str) -> int:
    return len(re.findall(pattern, text))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"compile_report: {pattern!r} is not in the compiler's output:\n{text[:2000]}")
    return int(found.group(1))


def _ptxas(ptx: str, chip: GPUTarget) -> str:
    """What `ptxas -v` says."""
    arch = re.search(r"\.target (\w+)", ptx)
    assert arch is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [get_ptxas(chip.arch).path, "-v", f"--gpu-name={arch[1]}", str(path), "-o", f"{folder}/kernel.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stderr + done.stdout


def _cuda(asm: dict[str, str], chip: GPUTarget) -> dict[str, int]:
    ptx = asm["ptx"]
    said = _ptxas(ptx, chip)
    loads = r"ld\.global(?:\.\w+|::\w+)*"
    return {
        "registers": _number(r"Used (\d+) registers", said),
        "spills": _number(r"(\d+) bytes spill stores", said) + _number(r"(\d+) bytes spill loads", said),
        "matrix": _count(r"wgmma\.mma_async|\bmma\.sync|tcgen05\.mma", ptx),
        "wgmma": _count(r"wgmma\.mma_async", ptx),
        "tcgen05": _count(r"tcgen05\.mma", ptx),
        "vector_loads": _count(loads + r"\.v[248]\.", ptx) + _count(r"cp\.async\.cg\.shared\.global", ptx),
        "vector_stores": _count(r"st\.global(?:\.\w+)*\.v[248]\.", ptx),
    }


def _hip(asm: dict[str, str]) -> dict[str, int]:
    code = asm["amdgcn"]
    return {
        "registers": _number(r"\.vgpr_count:\s+(\d+)", code),
        # Scalar registers are spilled into lanes of vector registers; only these and scratch memory cost traffic.
        "spills": _number(r"\.vgpr_spill_count:\s+(\d+)", code) + _number(r"private_segment_fixed_size:\s+(\d+)", code),
        "matrix": _count(r"v_mfma_", code),
        "vector_loads": _count(r"(?:global|buffer)_load_dwordx[24]", code),
        "vector_stores": _count(r"(?:global|buffer)_store_dwordx[24]", code),
    }


def report(case: Case, chip_name: str) -> dict[str, int]:
    """What one kernel becomes on one chip."""
    chip = target(chip_name)
    built = triton.compile(source(case), target=chip, options=case.options)
    found = _cuda(built.asm, chip) if chip.backend == "cuda" else _hip(built.asm)
    return {"shared_bytes": built.metadata.shared, **found}


def report_all(chips: tuple[str, ...] = TARGETS) -> dict[str, dict[str, dict[str, int]]]:
    """chip -> kernel case -> figures."""
    return {chip: {case.name: report(case, chip) for case in cases(chip)} for chip in chips}


def main() -> None:
    """Prints the figures; --write keeps them."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--write", action="store_true", help="rewrite baseline.json")
    options.add_argument("--chips", default=",".join(TARGETS))
    options.add_argument("--only", default="", help="cases whose name contains this")
    chosen = options.parse_args()
    kept: dict[str, dict[str, dict[str, int]]] = {}
    for chip in chosen.chips.split(","):
        for case in cases(chip):
            if chosen.only in case.name:
                kept.setdefault(chip, {})[case.name] = report(case, chip)
                print(f"{chip:8}{case.name:36}", kept[chip][case.name], flush=True)
    if chosen.write:
        if chosen.only or chosen.chips != ",".join(TARGETS):
            sys.exit("compile_report: --write takes all chips and all cases")
        BASELINE.write_text(json.dumps({"triton": triton.__version__, "chips": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
