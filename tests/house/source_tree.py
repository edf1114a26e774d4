"""The project's Python sources, parsed once: what each module imports and defines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGINS = ("teachers", "objectives", "synthesis", "evaluation")


@dataclass(frozen=True)
class Import:
    """One imported module or name.

    Args:
        name: dotted name; for `from a import b` it is `a.b`.
        line: line number.
        top_level: executed when the module is imported (not inside a function, not under TYPE_CHECKING).
    """

    name: str
    line: int
    top_level: bool


@dataclass(frozen=True)
class Source:
    """A parsed source file; `module` is its dotted name."""

    path: Path
    module: str

    @property
    def shown(self) -> str:
        return str(self.path.relative_to(REPOSITORY))

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def tree(self) -> ast.Module:
        return _parsed(self.path)

    @property
    def imports(self) -> tuple[Import, ...]:
        return _imports(self.path, self.module)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _imports(path: Path, module: str) -> tuple[Import, ...]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return tuple(_walk(_parsed(path), package, True))


def _walk(node: ast.AST, package: str, top_level: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, top_level)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            if child.level:
                parent = package.split(".")[: len(package.split(".")) - child.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            for alias in child.names:
                yield Import(f"{base}.{alias.name}", child.lineno, top_level)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), package, False)
            for statement in child.orelse:
                yield from _walk(ast.Module([statement], []), package, top_level)
        else:
            inner = top_level and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, package, inner)


def sources(directory: Path, root: Path) -> list[Source]:
    """Every source below `directory`, named relative to `root`; templates are text, not sources."""
    found = []
    for path in sorted(directory.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if "templates" in parts or "__pycache__" in parts:
            continue
        found.append(Source(path, ".".join(parts[:-1] if parts[-1] == "__init__" else parts)))
    return found


def core_sources(*rooms: str) -> list[Source]:
    """Sources of the core, or of some of its rooms (`"ops"`, `"config"`)."""
    everything = sources(REPOSITORY / "distill_core", REPOSITORY)
    if not rooms:
        return everything
    prefixes = tuple(f"distill_core.{room}" for room in rooms)
    return [source for source in everything if _within(source.module, prefixes)]


def plugin_sources() -> list[Source]:
    """Sources of the four first-party plugins (their tests excepted)."""
    found = []
    for name in PLUGINS:
        root = REPOSITORY / "plugins" / name
        found += sources(root / f"distill_{name}", root)
    return found


def _within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def reaches(imported: Import, *packages: str) -> bool:
    """Whether an import is one of `packages` or lies inside one."""
    return _within(imported.name, packages)
