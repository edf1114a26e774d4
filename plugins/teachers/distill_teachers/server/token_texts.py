"""From a server's token texts to ids: exactly, or not at all.

A server shows a token as its bytes, as ``token_id:123``, or as text in which a broken multi-byte character was dropped
or replaced. A text names an id only if no other token of the vocabulary could be shown by it. What stays unnamed is no
loss of exactness: its probability belongs to the tail.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import Any

from distill_core.errors import VocabularyError
from distill_teachers.server.reading import Shown

_BY_ID = re.compile(r"token_id:(\d+)")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})")
SPACE = "\u2581"
"""SentencePiece's mark of a space."""


def byte_letters() -> dict[str, int]:
    """The printable letter that byte-level tokenizers write for each byte (GPT-2's table), turned around.

    >>> byte_letters()["Ġ"], len(byte_letters())
    (32, 256)
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return letters | {chr(256 + index): byte for index, byte in enumerate(others)}


class TokenTexts:
    """The tokens of a tokenizer as servers show them.

    Args:
        tokenizer: a fast Transformers tokenizer: byte-level, or SentencePiece with byte fallback.

    Raises:
        VocabularyError: a tokenizer whose tokens do not tell their bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.size = len(tokenizer)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        description = "" if backend is None else json.dumps(_without_vocabulary(json.loads(backend.to_str())))
        self.marks_spaces = False
        """SentencePiece: a space is part of the token behind it, and servers may drop that of a text's first token."""
        if "ByteLevel" in description:
            self._bytes_of = _byte_level(byte_letters())
        elif "ByteFallback" in description or SPACE in json.dumps(list(tokenizer.get_vocab()), ensure_ascii=False):
            self._bytes_of = _sentencepiece
            self.marks_spaces = True
        else:
            raise VocabularyError(
                f"the tokenizer {getattr(tokenizer, 'name_or_path', '')!r} is neither byte-level nor SentencePiece, "
                "so a server's token texts cannot be told apart exactly: leave out `tokenizer` (text alone), or use a "
                "server that returns token ids"
            )

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids of added and special tokens, which servers show as their name or as nothing."""
        return frozenset(self.tokenizer.added_tokens_decoder) | frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def content(self) -> dict[int, bytes]:
        """The bytes of every token, by id; special tokens by their name."""
        found = {}
        for text, index in self.tokenizer.get_vocab().items():
            found[int(index)] = text.encode("utf-8") if int(index) in self.special_ids else self._bytes_of(text)
        return found

    def shown_as(self, index: int) -> frozenset[str]:
        """Every text by which a server may show a token."""
        content = self.content.get(index)
        if content is None:
            return frozenset()
        texts = {content.decode("utf-8", errors="ignore"), content.decode("utf-8", errors="replace")}
        if index in self.special_ids:
            texts.add("")
        return frozenset(texts)

    @cached_property
    def _by_text(self) -> dict[str, int]:
        """Texts that only one token can be shown by; -1 for the others."""
        found: dict[str, int] = {}
        for index in self.content:
            for text in self.shown_as(index):
                found[text] = index if text not in found else -1
        return found

    @cached_property
    def _by_content(self) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for index, content in self.content.items():
            found[content] = index if content not in found else -1
        return found

    def id_of(self, shown: Shown) -> int | None:
        """The id a server means, or None where that is not certain."""
        named = _BY_ID.fullmatch(shown.text)
        if named is not None:
            return int(named[1]) if int(named[1]) < self.size else None
        content = shown.content if shown.content is not None else _escaped(shown.text)
        index = self._by_text.get(shown.text, -1) if content is None else self._by_content.get(content, -1)
        return index if index >= 0 else None

    def fits(self, shown: Shown, index: int, *, begins: bool = False) -> bool:
        """Whether a server may show the token of this id like this; ``begins``: as the first of a text."""
        named = _BY_ID.fullmatch(shown.text)
        if named is not None:
            return int(named[1]) == index
        content = shown.content if shown.content is not None else _escaped(shown.text)
        if content is not None and self.content.get(index) == content:
            return True
        if begins and self.marks_spaces and " " + shown.text in self.shown_as(index):
            return True
        return shown.text in self.shown_as(index)


def _byte_level(letters: dict[str, int]) -> Any:
    def bytes_of(token: str) -> bytes:
        if all(letter in letters for letter in token):
            return bytes(letters[letter] for letter in token)
        return token.encode("utf-8")  # an added token that stands for itself

    return bytes_of


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte is not None else token.replace(SPACE, " ").encode("utf-8")


def _escaped(text: str) -> bytes | None:
    r"""The bytes of ``bytes:\xe2\x80``, as some servers write them.

    >>> _escaped(r"bytes:\xe2\x80"), _escaped("word")
    (b'\xe2\x80', None)
    """
    if not text.startswith("bytes:"):
        return None
    rest = text[len("bytes:") :]
    content, position = b"", 0
    for match in _ESCAPED.finditer(rest):
        content += rest[position : match.start()].encode("utf-8") + bytes([int(match[1], 16)])
        position = match.end()
    return content + rest[position:].encode("utf-8") if _ESCAPED.search(rest) else None


def _without_vocabulary(description: dict[str, Any]) -> dict[str, Any]:
    return {part: description.get(part) for part in ("pre_tokenizer", "decoder")}
