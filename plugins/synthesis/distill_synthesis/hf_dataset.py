"""The ``hf-dataset`` source: a dataset of the ``datasets`` library, from the hub or from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.options import HFDatasetOptions
from distill_synthesis.rows import record_of

ROWS_PER_READ = 1000


class HFDataset:
    """Yields a record for each row of one split, in order."""

    def __init__(self, options: HFDatasetOptions) -> None:
        self.options = options

    @cached_property
    def dataset(self) -> Any:
        """The loaded split.

        Raises:
            DataError: the library is missing, or the dataset or split cannot be loaded.
        """
        try:
            import datasets
        except ImportError:
            raise DataError(
                "hf-dataset needs the library datasets: pip install 'distill-synthesis[datasets]'"
            ) from None
        options, path = self.options, Path(self.options.path).expanduser()
        try:
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                return self._from_disk(datasets.load_from_disk(str(path)))
            source = str(path) if path.is_dir() else options.path
            return datasets.load_dataset(source, options.name, split=options.split, revision=options.revision)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"hf-dataset {options.path}, split {options.split!r}: cannot be loaded: {error}") from error

    def _from_disk(self, loaded: Any) -> Any:
        if not hasattr(loaded, "keys"):
            return loaded
        if self.options.split not in loaded:
            raise ValueError(f"it has the splits {', '.join(loaded)}")
        return loaded[self.options.split]

    def records(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self.dataset):
            place = f"{self.options.path} ({self.options.split}) row {number}"
            yield record_of(row, self.options, place=place, document=f"{self.options.split}-{number}")

    def fingerprint(self) -> str:
        """Hash of the fields that are read, of all rows."""
        wanted = [
            *self.options.wanted.values(),
            *self.options.fields,
            *([self.options.document] if self.options.document else []),
        ]
        known = [name for name in wanted if name in self.dataset.column_names]
        state = hashlib.sha256(json.dumps(known).encode())
        for batch in self.dataset.select_columns(known).iter(ROWS_PER_READ):
            state.update(json.dumps(batch, sort_keys=True, ensure_ascii=False, default=str).encode())
        return state.hexdigest()
