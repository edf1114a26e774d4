"""`python -m benchmarks sparse_kl [options]` prints a Markdown table."""

from __future__ import annotations

import argparse

from benchmarks import sparse_kl, store_reading

BENCHMARKS = {"sparse_kl": sparse_kl, "store_reading": store_reading}


def main() -> None:
    """Parse the name of a benchmark and its options, run it, print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name, module in BENCHMARKS.items():
        module.add_options(commands.add_parser(name, help=module.__doc__.splitlines()[0]))
    options = parser.parse_args()
    print(BENCHMARKS[options.name].run(options))


if __name__ == "__main__":
    main()
