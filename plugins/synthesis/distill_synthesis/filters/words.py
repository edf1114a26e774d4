"""Words as filters compare them: case, width, accents written in two ways and invisible characters play no part."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

SINGLE = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Kana and ideographs: written without spaces, each one counts as a word."""


def normalised(text: str) -> str:
    """NFKC, case folded, without NUL, zero-width and direction characters.

    >>> normalised("Stra\\u200bße \\uff21\\u202e")
    'strasse a'
    """
    kept = "".join(c for c in unicodedata.normalize("NFKC", text) if c == "\n" or not _invisible(c))
    return unicodedata.normalize("NFKC", kept.casefold())


def words(text: str) -> list[str]:
    """The normalised words of a text: letters, digits and the marks on them; kana and ideographs one by one.

    >>> words("It's 3.5 — Naïve, 日本!")
    ['it', 's', '3', '5', 'naïve', '日', '本']
    """
    return _pattern().findall(normalised(text))


def _invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cf", "Cc") and not character.isspace()


@cache
def _pattern() -> re.Pattern[str]:
    """``\\w`` knows no combining marks, without which the words of many scripts fall apart."""
    marks = "".join(chr(code) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(f"[{SINGLE}]|(?:(?![{SINGLE}_])[\\w{marks}])+")
