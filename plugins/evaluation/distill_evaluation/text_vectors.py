"""Texts as unit vectors: hashed counts of their words and pairs of words, or an encoder's mean hidden state."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

DIMENSION = 4096
"""Length of hashed vectors."""

_WORD = re.compile(r"\w+", re.UNICODE)

Floats = npt.NDArray[np.float64]


def words(text: str) -> list[str]:
    """Lower-case words; in scripts without spaces, runs of letters.

    >>> words("The state, of the UNION!")
    ['the', 'state', 'of', 'the', 'union']
    """
    return _WORD.findall(text.lower())


def hashed_vectors(texts: Sequence[str]) -> Floats:
    """[n, DIMENSION] unit vectors of square roots of counts of words and pairs; a text without words is all zero.

    >>> a, b, c = hashed_vectors(["one two", "One, two!", "three four"])
    >>> round(float(a @ b), 6), round(float(a @ c), 6)
    (1.0, 0.0)
    """
    vectors = np.zeros((len(texts), DIMENSION))
    for row, text in enumerate(texts):
        found = words(text)
        for part in [*found, *(" ".join(pair) for pair in pairwise(found))]:
            vectors[row, zlib.crc32(part.encode("utf-8", errors="replace")) % DIMENSION] += 1
    return _unit(np.sqrt(vectors))


def encoder_vectors(texts: Sequence[str], source: str, *, batch: int = 16) -> Floats:
    """[n, D] unit vectors: the mean over tokens of an encoder's last hidden states (a Transformers ``AutoModel``)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source)
    model: Any = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    found = []
    with torch.no_grad():
        for start in range(0, len(texts), batch):
            given = tokenizer(
                list(texts[start : start + batch]), padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            mask_BT1 = given["attention_mask"][:, :, None]
            hidden_BTD = model(**given).last_hidden_state * mask_BT1
            found.append((hidden_BTD.sum(dim=1) / mask_BT1.sum(dim=1).clamp_min(1)).double().numpy())
    return _unit(np.concatenate(found)) if found else np.zeros((0, 1))


def vectors_of(texts: Sequence[str], encoder: str | None) -> Floats:
    """By the encoder where there is one, else hashed."""
    return hashed_vectors(texts) if encoder is None else encoder_vectors(texts, encoder)


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = vectors / np.where(norms > 0, norms, 1)
    return unit
