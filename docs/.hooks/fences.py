"""Code fences may carry words for the documentation's tests (`run`, `help="..."`); the site does not show them."""

from __future__ import annotations

import re
from typing import Any

WORDS = re.compile(r'^( *```\w+)((?: +(?:run|help="[^"]*"|title="[^"]*"))+) *$', re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Keep the language and the title of each fence."""
    return WORDS.sub(lambda match: match[1] + "".join(re.findall(r' title="[^"]*"', match[2])), markdown)
