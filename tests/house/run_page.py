"""Runs one page of the documentation: `python -m tests.house.run_page PAGE` in an empty directory.

Blocks run in the order of the page: python blocks in one namespace, `bash run` blocks in a shell, titled blocks are
written to files. A failure shows the page's own line numbers.
"""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from tests.house.pages import REPOSITORY, Block, blocks


def execute(block: Block, module: ModuleType) -> None:
    if block.title is not None:
        path = Path(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        code = "\n" * block.line + block.code  # tracebacks then show the line in the page
        exec(compile(code, str(block.page), "exec"), module.__dict__)
    elif block.language == "pycon":
        test = doctest.DocTestParser().get_doctest(
            block.code, module.__dict__, block.place, str(block.page), block.line
        )
        result = doctest.DocTestRunner().run(test, clear_globs=False)
        if result.failed:
            sys.exit(f"{block.place}: {result.failed} of {result.attempted} examples failed")
    elif block.language == "bash" and "run" in block.words:
        print(f"--- {block.place}\n{block.code}", flush=True)
        shell = subprocess.run(["bash", "-euo", "pipefail", "-c", block.code])
        if shell.returncode:
            sys.exit(f"{block.place}: exit code {shell.returncode}")


def main(page: Path) -> None:
    for name in ("recipes", "examples"):
        if (REPOSITORY / name).is_dir():
            Path(name).symlink_to(REPOSITORY / name)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sys.path.insert(0, os.getcwd())
    module = ModuleType("page")
    sys.modules["page"] = module
    for block in blocks(page):
        execute(block, module)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
