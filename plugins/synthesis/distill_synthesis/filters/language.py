"""The ``language`` filter: records in the languages that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.filters.options import LanguageOptions, unknown_languages
from distill_synthesis.filters.record_text import text_of

INSTALL = "needs the library py3langid: pip install 'distill-synthesis[language]'"

LONGEST = 20_000
"""Characters of a text that are looked at."""


class Language:
    """Which language a text is in, by naive Bayes over byte n-grams (langid.py, Lui & Baldwin 2012; 140 languages).

    Offline: the model comes with the library. Letters are counted without digits, punctuation and emoji.

    Raises:
        DataError: the library is not installed, or a language is none that it knows.
    """

    def __init__(self, options: LanguageOptions) -> None:
        self.options = options
        self._identifier = _identifier()
        known = known_languages()
        if unknown := sorted(set(options.keep) - set(known)):
            raise DataError(f"language.keep: {unknown_languages(unknown, known)}")

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        text = text_of(record, self.options.part)[:LONGEST].replace("\0", " ")
        letters = sum(character.isalpha() for character in text)
        if letters < self.options.shortest_characters:
            if self.options.short == "keep":
                return None
            return f"too short to tell: {letters} letters, at least {self.options.shortest_characters}"
        language, probability = self._identifier.classify(text)
        if language not in self.options.keep:
            return f"in another language: {language}, probability {probability:.2f}"
        if probability < self.options.min_confidence:
            return f"language unsure: {language}, probability {probability:.2f}"
        return None


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise DataError(f"language: {INSTALL}") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


@cache
def known_languages() -> list[str]:
    """ISO 639-1 codes, sorted."""
    return sorted(map(str, _identifier().labels))
