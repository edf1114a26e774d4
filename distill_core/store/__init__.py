"""The store of sparse teacher signals: numpy and pyarrow, no torch.

``StoreWriter`` appends sequences with their rows, ``StoreReader`` answers for a stored sequence or any prefix of one.
Names are imported at first use, so that ``distill_core.store.tokenizer`` needs nothing but the standard library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill_core.store.coding import codec_in_use as codec_in_use
    from distill_core.store.export import export_parquet as export_parquet
    from distill_core.store.information import StoreInfo as StoreInfo
    from distill_core.store.information import store_info as store_info
    from distill_core.store.keys import sequence_key as sequence_key
    from distill_core.store.merge import merge_stores as merge_stores
    from distill_core.store.meta import StoreMeta as StoreMeta
    from distill_core.store.reader import StoreReader as StoreReader
    from distill_core.store.rows import RowArrays as RowArrays
    from distill_core.store.tokenizer import VocabularyInfo as VocabularyInfo
    from distill_core.store.tokenizer import classes_info as classes_info
    from distill_core.store.tokenizer import vocabulary_info as vocabulary_info
    from distill_core.store.verify import verify_store as verify_store
    from distill_core.store.writer import StoreWriter as StoreWriter

_ROOMS = {
    "RowArrays": "rows",
    "StoreInfo": "information",
    "StoreMeta": "meta",
    "StoreReader": "reader",
    "StoreWriter": "writer",
    "VocabularyInfo": "tokenizer",
    "classes_info": "tokenizer",
    "codec_in_use": "coding",
    "export_parquet": "export",
    "merge_stores": "merge",
    "sequence_key": "keys",
    "store_info": "information",
    "verify_store": "verify",
    "vocabulary_info": "tokenizer",
}

__all__ = [*_ROOMS]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
