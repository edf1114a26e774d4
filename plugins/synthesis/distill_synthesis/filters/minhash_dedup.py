"""The ``minhash-dedup`` filter: the first of texts that share most of their n-grams stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH

from distill_synthesis.filters.options import MinhashDedupOptions
from distill_synthesis.filters.record_text import document_of, text_of
from distill_synthesis.filters.words import normalised, words


class MinhashDedup:
    """Near duplicates by MinHash (Broder 1997), as for language model corpora in 2107.06499.

    A text is the set of its n-grams; the share of equal minima under random hash functions estimates the Jaccard
    similarity of two sets. Locality-sensitive hashing proposes earlier records, and the estimate against each of them
    decides. A text shorter than an n-gram is one n-gram, one without any word is kept.

    >>> judge = MinhashDedup(MinhashDedupOptions(ngram=2))
    >>> text = "the quick brown fox jumps over the lazy dog"
    >>> judge.verdict({"text": text, "document": "a"}), judge.verdict({"text": text.upper() + "!"})
    (None, 'near duplicate: of document a, Jaccard about 1.00')
    """

    def __init__(self, options: MinhashDedupOptions) -> None:
        self.options = options
        self._index = MinHashLSH(threshold=options.threshold, num_perm=options.permutations)
        self._kept: list[tuple[str, Any]] = []
        self._seen = 0

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        self._seen += 1
        grams = self.grams(text_of(record, self.options.part))
        if not grams:
            return None
        sketch = self.sketch(grams)
        best, document = -1.0, ""
        for place in sorted(self._index.query(sketch)):  # the first of those most alike, whatever order they come in
            name, other = self._kept[place]
            if (similarity := float(np.mean(sketch.hashvalues == other))) > best:
                best, document = similarity, name
        if best >= self.options.threshold:
            return f"near duplicate: of document {document}, Jaccard about {best:.2f}"
        self._index.insert(len(self._kept), sketch)
        self._kept.append((document_of(record, self._seen), sketch.hashvalues))
        return None

    def grams(self, text: str) -> set[str]:
        """The set of a text."""
        if self.options.unit == "words":
            units, between = words(text), " "
        else:
            units, between = list(" ".join(normalised(text).split())), ""
        n = min(self.options.ngram, len(units))
        return {between.join(units[i : i + n]) for i in range(len(units) - n + 1)} if n else set()

    def sketch(self, grams: set[str]) -> MinHash:
        """[permutations] minima of the set."""
        sketch = MinHash(num_perm=self.options.permutations, seed=self.options.seed)
        sketch.update_batch([gram.encode() for gram in sorted(grams)])
        return sketch
