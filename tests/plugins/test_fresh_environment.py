"""Plain ``pip install`` into a fresh environment: the example plugin by name, and what ``plugins new`` writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


class FreshEnvironment:
    """A virtual environment that sees third-party packages of the present one (torch is large), nothing of ours."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.python = directory / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
        others = directory / "third-party"
        others.mkdir()
        for entry in Path(sysconfig.get_path("purelib")).iterdir():
            if "distill" not in entry.name and not entry.name.startswith("__editable__") and entry.suffix != ".pth":
                (others / entry.name).symlink_to(entry)
        (site,) = (directory / "venv" / "lib").glob("python*/site-packages")
        (site / "third_party.pth").write_text(f"{others}\n")

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DISTILL_", "PYTHON", "PYTEST"))}
        return {**kept, "DISTILL_BUILD_EXT": "0", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def install(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
        command += ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check", *arguments]
        self._run(command)

    def run(self, *arguments: str | Path, codes: tuple[int, ...] = (0,)) -> str:
        return self._run([self.python, *arguments], codes=codes)

    def distill(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        return self._run([self.python.with_name("distill"), *arguments], codes=codes)

    def _run(self, command: list[str | Path], codes: tuple[int, ...] = (0,)) -> str:
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode in codes, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    """distill-core and the first-party objectives installed from a copy of the sources (a build writes beside them)."""
    directory = tmp_path_factory.mktemp("fresh")
    environment = FreshEnvironment(directory)
    sources = directory / "sources"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "*.so")
    shutil.copytree(ROOT / "distill_core", sources / "distill_core", ignore=ignored)
    shutil.copytree(ROOT / "csrc", sources / "csrc", ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, sources / name)
    shutil.copytree(ROOT / "plugins" / "objectives", sources / "objectives", ignore=ignored)
    environment.install(sources, sources / "objectives")
    return environment


LOSSES = """
import json, sys
import torch
from distill_core import ops
from distill_core.registry import get_registry
from distill_core.testing.material import exact_target, random_rows

found = {}
for name in sys.argv[1:]:
    objective = get_registry().build("objective", name)
    rows = random_rows(0)
    target = exact_target(rows.teacher_NV, rows.ids_NK, (1.0,))
    hidden = rows.hidden_ND.requires_grad_(True)
    loss = ops.sparse_distill_loss(
        hidden, rows.weight_VD, rows.ids_NK, lambda support, cut: objective.rows(support, target[cut], rows.info[cut])
    )
    loss.backward()
    found[name] = [loss.item().hex(), hidden.grad.double().sum().item().hex()]
print(json.dumps(found))
"""


def test_example_plugin_is_used_by_name_and_changes_no_other_number(fresh: FreshEnvironment) -> None:
    known = ("forward-kl", "objectives:total-variation", "jsd")
    before = json.loads(fresh.run("-c", LOSSES, *known))
    hello = fresh.directory / "hello"
    shutil.copytree(ROOT / "examples" / "distill-hello", hello, ignore=shutil.ignore_patterns("__pycache__", "*.egg*"))
    fresh.install(hello)
    rows = json.loads(fresh.distill("plugins", "list", "--json"))
    assert {"hello:total-variation", "hello:hello-total-variation"} <= {row["id"] for row in rows}
    assert "hello 0.1.0 of distill-hello" in fresh.distill("plugins", "show", "hello:total-variation")
    after = json.loads(fresh.run("-c", LOSSES, *known, "hello:total-variation", "hello-total-variation"))
    assert {name: after[name] for name in known} == before  # bit for bit
    assert after["hello-total-variation"] == after["hello:total-variation"] == before["objectives:total-variation"]
    assert "0 failed" in fresh.distill("plugins", "check", "distill-hello")
    ambiguous = fresh.run("-c", AMBIGUOUS)
    assert "hello:total-variation, objectives:total-variation" in ambiguous
    fresh.run("-m", "pytest", "-q", "-p", "no:cacheprovider", hello)


AMBIGUOUS = """
from distill_core.errors import AmbiguousComponent
from distill_core.registry import get_registry
try:
    get_registry().find("objective", "total-variation")
except AmbiguousComponent as error:
    print(error)
"""


def test_new_plugins_pass_their_own_tests_after_an_editable_install(fresh: FreshEnvironment) -> None:
    kinds = ("objective", "teacher", "source", "filter", "schedule", "evaluator", "synthesizer")
    for kind in kinds:
        fresh.distill("plugins", "new", f"fresh-{kind}", "--kind", kind, "--output", f"new-{kind}")
    fresh.install(*(argument for kind in kinds for argument in ("-e", fresh.directory / f"new-{kind}")))
    for kind in kinds:
        output = fresh.run("-m", "pytest", "-q", "-p", "no:cacheprovider", fresh.directory / f"new-{kind}")
        assert " passed" in output
        assert "failed" not in output
