"""Peak resident memory of one case, in a process of its own (Linux): `VmHWM` during one call above `VmRSS` before it.

`python -m benchmarks.fresh_process CASE NAME [options]` prints MiB; the options are those of the benchmark NAME.
"""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
from pathlib import Path


def reset_peak() -> None:
    """Let the kernel's record of this process's largest resident size start again."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_mib(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (largest since the reset) of this process, in MiB."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) / 1024


def give_back() -> None:
    """Free what nothing refers to, and return the C library's free memory to the kernel."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def measured_mib(case: str, arguments: list[str]) -> float:
    """Peak of one call of a case in a fresh process; `arguments` are NAME and its options."""
    command = [sys.executable, "-m", "benchmarks.fresh_process", case, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def main() -> None:
    from benchmarks.__main__ import parse
    from benchmarks.case import Case
    from benchmarks.driver import threads

    case, name, *rest = sys.argv[1:]
    options = parse([name, *rest])
    threads(options)
    # Code and caches of a first call do not count. What is compiled for these very sizes has to run at them once.
    small = parse([name, *rest, *options.module.TINY])
    for warm_up in (small, options) if _found(options, case).compiled else (small,):
        _found(warm_up, case).build()()
    chosen: Case = _found(options, case)
    run = chosen.build()
    give_back()
    before = resident_mib("VmRSS")
    reset_peak()
    kept = run()
    print(resident_mib("VmHWM") - before)
    del kept


def _found(options, case):  # type: ignore[no-untyped-def]
    return options.module.cases(options)[case]


if __name__ == "__main__":
    main()
