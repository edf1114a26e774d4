"""Renders a plugin package from ``distill_core/templates/plugin``: what ``distill plugins new`` writes."""

from __future__ import annotations

import keyword
import re
from pathlib import Path

import jinja2

from distill_core import __version__
from distill_core.errors import PluginError
from distill_core.plugin import KINDS

TEMPLATES = Path(__file__).resolve().parent.parent / "templates" / "plugin"

GENERIC = "component"
"""Template of kinds that have none of their own."""

RESERVED = ("options", "plugin")
"""Modules that every plugin package has already."""


def render_plugin(name: str, kind: str, directory: Path) -> list[Path]:
    """Write an installable plugin package with one component.

    Args:
        name: kebab-case name of the component and of the plugin.
        kind: its kind.
        directory: directory to create; it may exist if it is empty.

    Returns:
        The files written, relative to ``directory``.

    Raises:
        PluginError: a wrong name or kind, or a directory with something in it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise PluginError(f"name is {name!r}; expected kebab-case such as 'my-loss': a-z, 0-9 and single -")
    if keyword.iskeyword(name) or name in RESERVED:
        raise PluginError(f"name is {name!r}, which cannot name the module that holds the component; choose another")
    if kind not in KINDS:
        raise PluginError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise PluginError(f"{directory} exists already and is not an empty directory; choose another with --output")
    module = name.replace("-", "_")
    package = f"distill_{module}"
    specific = kind if (TEMPLATES / "implementation" / f"{kind}.py.j2").is_file() else GENERIC
    files = {
        "pyproject.toml": "pyproject.toml.j2",
        "README.md": "README.md.j2",
        f"{package}/__init__.py": "init.py.j2",
        f"{package}/py.typed": "py.typed.j2",
        f"{package}/plugin.py": "plugin.py.j2",
        f"{package}/options.py": f"options/{specific}.py.j2",
        f"{package}/{module}.py": f"implementation/{specific}.py.j2",
        f"tests/test_{module}.py": "test_plugin.py.j2",
    }
    values = {
        "name": name,
        "kind": kind,
        "specific": specific,
        "module": module,
        "package": package,
        "distribution": f"distill-{name}",
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "core_version": ".".join(__version__.split(".")[:2]),
    }
    # The output is Python and TOML, never HTML, and the values were checked above.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    rendered = {path: environment.get_template(template).render(values) for path, template in files.items()}
    for path, text in rendered.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return [Path(path) for path in rendered]
