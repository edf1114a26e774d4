"""Which bytes each token of a vocabulary stands for: the common language of two tokenizers.

Byte-level vocabularies (GPT-2's alphabet, ``Ġ`` for a space) and SentencePiece ones (``▁`` for a space, ``<0xE6>`` for
a byte) are read exactly. Others, such as WordPiece, lose spaces or case and are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill_core.errors import VocabularyError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PROBE = "A naïve test, 12  日本語 🙂\n\tend."


@dataclass(frozen=True)
class TokenBytes:
    """The bytes of every token.

    Args:
        of_id: by id; None for tokens that stand for no text (special ones, ids without a token).
        special: text of special tokens by id.
        spelled: ids of single bytes that SentencePiece spells out (``<0x41>``), where another token may mean the same.
        backend: a ``tokenizers.Tokenizer`` that takes no part of a text for a special token.
    """

    of_id: tuple[bytes | None, ...]
    special: dict[int, str]
    spelled: frozenset[int]
    backend: Any

    def canonical(self) -> dict[bytes, int]:
        """The token of a byte string: one that is no spelled-out byte where there is one, then the lowest id."""
        found: dict[bytes, int] = {}
        for index, value in enumerate(self.of_id):
            if value and (value not in found or (found[value] in self.spelled and index not in self.spelled)):
                found[value] = index
        return found

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text without special tokens, and the characters each covers."""
        encoded = self.backend.encode(text, add_special_tokens=False)
        return list(encoded.ids), list(encoded.offsets)


def token_bytes(tokenizer: Any, role: str) -> TokenBytes:
    """Read a tokenizer.

    Args:
        tokenizer: a fast Transformers tokenizer.
        role: ``teacher`` or ``student``, for messages.

    Raises:
        VocabularyError: a slow tokenizer, or one whose tokens are not bytes of the text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not callable(getattr(backend, "to_str", None)):
        raise VocabularyError(
            f"the {role}'s tokenizer is a {type(tokenizer).__name__}, a slow one without offsets: expected a fast "
            "tokenizer (one with tokenizer.json); load and save it once with transformers.AutoTokenizer to convert it"
        )
    description = json.loads(backend.to_str())
    special = {i: str(t.content) for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    literal = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if not (t.special or t.normalized)}
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None:
        special.setdefault(unknown, str(tokenizer.unk_token))
    spell = _speller(description, role, type(tokenizer).__name__)
    of_id: list[bytes | None] = [None] * (max(tokenizer.get_vocab().values()) + 1)
    spelled = set()
    byte_fallback = bool(description["model"].get("byte_fallback"))
    for token, index in tokenizer.get_vocab().items():
        if index in special:
            continue
        match = _BYTE_TOKEN.fullmatch(token) if byte_fallback else None
        if index in literal:
            of_id[index] = literal[index].encode()
        elif match is not None:
            of_id[index] = bytes([int(match[1], 16)])
            spelled.add(index)
        else:
            of_id[index] = spell(token)
    found = TokenBytes(tuple(of_id), special, frozenset(spelled), _plain_copy(backend))
    _check(found, tokenizer, role)
    return found


def _plain_copy(backend: Any) -> Any:
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True  # text that looks like a special token is text
    return copy


def _speller(description: dict[str, Any], role: str, name: str) -> Any:
    """Token text to bytes."""
    steps = {step["type"]: step for step in _flat(description.get("decoder"), "decoders")}
    before = {step["type"] for step in _flat(description.get("pre_tokenizer"), "pretokenizers")}
    model = description["model"]
    suffixed = model.get("end_of_word_suffix") or model.get("continuing_subword_prefix")
    if not suffixed and ("ByteLevel" in steps or "ByteLevel" in before):
        alphabet = {character: byte for byte, character in _byte_alphabet()}

        def byte_level(token: str) -> bytes:
            known = all(character in alphabet for character in token)
            return bytes(alphabet[c] for c in token) if known else token.encode()

        return byte_level
    marks = [step["pattern"].get("String") for step in steps.values() if step["type"] == "Replace"]
    if "Metaspace" in steps:
        marks.append(steps["Metaspace"].get("replacement", "▁"))
    if not suffixed and marks:
        return lambda token: token.replace(marks[-1], " ").encode()
    raise VocabularyError(
        f"the {role}'s tokenizer ({name}, model {model.get('type')}, decoder {sorted(steps) or 'none'}) does not say "
        "which bytes its tokens stand for: expected a byte-level (GPT-2, Llama 3, Qwen) or a SentencePiece tokenizer "
        "(Llama 2, Mistral, Gemma)"
    )


def _flat(step: dict[str, Any] | None, inside: str) -> Iterator[dict[str, Any]]:
    """The steps of a pipeline, sequences unrolled."""
    if step is None:
        return
    if step["type"] == "Sequence":
        for one in step[inside]:
            yield from _flat(one, inside)
    else:
        yield step


def _byte_alphabet() -> Iterator[tuple[int, str]]:
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, the rest come from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    following = 0x100
    for byte in range(256):
        if byte in printable:
            yield byte, chr(byte)
        else:
            yield byte, chr(following)
            following += 1


def _check(found: TokenBytes, tokenizer: Any, role: str) -> None:
    """The bytes of a probe's tokens decode to what the tokenizer itself decodes them to."""
    ids, _ = found.encode(_PROBE)
    ours = joined(found, ids).decode("utf-8", errors="replace")
    theirs = tokenizer.decode([i for i in ids if i not in found.special], clean_up_tokenization_spaces=False)
    if ours.removeprefix(" ") != theirs.removeprefix(" "):
        raise VocabularyError(
            f"the {role}'s tokenizer decodes {len(ids)} tokens to {theirs!r}, but their bytes are {ours!r}: its tokens "
            "cannot be read as bytes of the text"
        )


def joined(found: TokenBytes, ids: Sequence[int]) -> bytes:
    """The bytes of a sequence; tokens without text have none."""
    return b"".join(found.of_id[index] or b"" for index in ids)
