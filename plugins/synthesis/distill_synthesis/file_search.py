"""Finds files by path, glob, or inside an installed package or the standard library, without importing anything."""

from __future__ import annotations

import glob
import re
import sysconfig
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from distill_core.errors import DataError

if TYPE_CHECKING:
    from distill_synthesis.options import NumberRange, TextFilesOptions


def find_files(options: TextFilesOptions) -> list[tuple[str, Path]]:
    """(document id, path) of every file the options pick, sorted by id.

    The id is the path as it was given, or relative to the package (or the standard library).

    Raises:
        DataError: starts with the option at fault; no such package, a path that matches nothing, or nothing left.
    """
    root = start_of(options)
    found = matching(options.paths, root)
    picked = {name: path for name, path in found.items() if is_picked(path.name, options)}
    if not picked:
        raise DataError(
            f"paths: {len(found)} files match, but include, exclude and number leave none of them; "
            f"their names are like {next(iter(found.values())).name}"
        )
    return sorted(picked.items())


def start_of(options: TextFilesOptions) -> Path | None:
    """The directory that paths start from: a package's, the standard library's, or None for the present one."""
    if options.standard_library:
        return Path(sysconfig.get_path("stdlib"))
    return None if options.package is None else package_directory(options.package)


def package_directory(package: str) -> Path:
    """Directory of an installed package, by its import name or its distribution's name; nothing is imported."""
    for name in (package, package.replace("-", "_")):
        if "." not in name and (spec := find_spec(name)) is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    try:
        files = metadata.distribution(package).files or []
    except (metadata.PackageNotFoundError, ValueError):
        raise DataError(
            f"package: the Python package {package} is not installed; install it with: pip install {package}"
        ) from None
    tops = sorted({file.parts[0] for file in files if len(file.parts) > 1 and not file.parts[0].endswith(".dist-info")})
    for top in tops:
        if top.isidentifier() and (spec := find_spec(top)) is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations)))
    raise DataError(f"package: the Python package {package} has no directory of its own to look in")


def matching(patterns: Sequence[str], root: Path | None = None) -> dict[str, Path]:
    """Files by the name they were found under; a directory stands for all ``*.txt`` below it.

    Raises:
        DataError: a pattern that matches no file.
    """
    found: dict[str, Path] = {}
    for index, pattern in enumerate(patterns):
        here = root if root is not None else Path()
        full = here / Path(pattern).expanduser()
        deep = full / "**" / "*.txt" if full.is_dir() else full
        paths = [Path(name) for name in glob.glob(str(deep), recursive=True)]
        paths = [path for path in paths if path.is_file()]
        if not paths:
            start = "the present directory" if root is None else f"the directory {root}"
            raise DataError(f"paths[{index}]: no file matches {pattern}; paths start from {start}")
        for path in paths:
            found[(path.relative_to(root) if root is not None else path).as_posix()] = path
    return found


def is_picked(name: str, options: TextFilesOptions) -> bool:
    """Whether include, exclude and number keep a file name."""
    if options.include is not None and re.search(options.include, name) is None:
        return False
    if options.exclude is not None and re.search(options.exclude, name) is not None:
        return False
    return options.number is None or in_range(name, options.number)


def in_range(name: str, wanted: NumberRange) -> bool:
    """Whether the number in a name lies in the range, bounds included; a name without one is left out."""
    match = re.search(wanted.pattern, name)
    if match is None:
        return False
    try:
        number = float(match[1])
    except (TypeError, ValueError):
        return False
    return (wanted.min is None or number >= wanted.min) and (wanted.max is None or number <= wanted.max)
