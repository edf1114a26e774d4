"""`python -m benchmarks NAME [options]` prints a Markdown table.

`python -m benchmarks tables` makes the tables of docs/benchmarks.md again from benchmarks/results. Options
follow the name; `python -m benchmarks NAME --help` lists them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

NAMES = (
    "linear_sparse_kl",
    "sparse_kl",
    "topk_logits",
    "capture",
    "gradient_match",
    "gradient_gram",
    "random_projection",
    "second_order",
    "matching_step",
    "projected_gradients",
    "accuracy",
    "gradient_quality",
    "target_bias",
    "store_size",
    "trl_training",
    "objective_table",
    "dataset_distillation",
    "selection",
    "text_distillation",
)
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def module_of(name: str) -> ModuleType:
    """The benchmark's file, imported when it is asked for."""
    if name not in NAMES:
        raise SystemExit(f"python -m benchmarks: no benchmark {name!r}; there are {', '.join(NAMES)} (and tables)")
    return importlib.import_module(f"benchmarks.{name}")


def parse(words: list[str]) -> argparse.Namespace:
    """The options of a benchmark, with its module and the defaults beside them."""
    name, *rest = words
    module = module_of(name)
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_options(parser)
    parser.add_argument("--json", metavar="FILE", default=None, help="write the result there as well")
    options = parser.parse_args(rest)
    options.defaults = {a.dest: a.default for a in parser._actions}
    options.name, options.module = name, module
    return options


def main(words: list[str]) -> None:
    """Run one benchmark and print its table, under the command that it answers."""
    from benchmarks import result, tables

    if not words or words[0] in ("-h", "--help"):
        print(__doc__ + "\nBenchmarks: " + ", ".join(NAMES))
        return
    if words[0] == "tables":
        tables.main(words[1:])
        return
    options = parse(words)
    if getattr(options, "huge_pages", False) and os.environ.get(HUGE_PAGES) != "1":
        # The allocator reads the variable when torch is loaded: a process of its own.
        command = [sys.executable, "-m", "benchmarks", *words]
        raise SystemExit(subprocess.run(command, env={**os.environ, HUGE_PAGES: "1"}).returncode)
    found = options.module.run(options)
    if options.json:
        result.save(found, Path(options.json))
    print(tables.section(found))


if __name__ == "__main__":
    main(sys.argv[1:])
