"""``distill``: the command line. What a command needs is imported when it runs."""

from __future__ import annotations

from distill_core.cli.application import app, main

__all__ = ["app", "main"]
