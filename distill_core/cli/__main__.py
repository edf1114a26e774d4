"""``python -m distill_core.cli`` is ``distill``."""

from __future__ import annotations

from distill_core.cli.application import main

main()
