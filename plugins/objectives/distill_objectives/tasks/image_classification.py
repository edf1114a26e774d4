"""Task ``image-classification``: one class per image.

Legend: C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_core.engine.data import IGNORE
from distill_core.engine.records import weight_of
from distill_core.errors import DataError
from distill_core.pieces import CutRecord, Piece
from distill_objectives.tasks.fields import class_of, field_of
from distill_objectives.tasks.options import ImageClassificationOptions


class ImageClassification:
    """One class per image. The image's bytes are what a sequence of ids is to a text: its content, and its key.

    An image is a list (nested or flat), an array or a PIL image of H x W (x C) bytes. Models read ``pixel_values``
    [C, H, W]: ``(byte / 255 - mean) / std``.

    >>> task = ImageClassification(ImageClassificationOptions(labels=["a", "b"], height=1, width=2, channels=1))
    >>> task.inputs(np.array([0, 255], dtype=np.int32))["pixel_values"].tolist()
    [[[-1.0, 1.0]]]
    """

    architecture = "AutoModelForImageClassification"

    def __init__(self, options: ImageClassificationOptions) -> None:
        self.options = options
        self.labels = options.labels
        self._shape_HWC = (options.height, options.width, options.channels)
        self._mean_C1 = np.asarray(options.mean, dtype=np.float32).reshape(-1, 1, 1)
        self._std_C1 = np.asarray(options.std, dtype=np.float32).reshape(-1, 1, 1)

    def pieces(self, record: Mapping[str, Any], *, tokenizer: Any, length_tokens: int, document: str) -> CutRecord:
        """The image as one sequence of its bytes; neither the tokenizer nor the length are read.

        Raises:
            DataError: another size, or values that are no bytes.
        """
        bytes_P = self._bytes(field_of(record, self.options.image, "image", document), document)
        label = class_of(field_of(record, self.options.label, "label", document), self.labels, document)
        classes = [label] + [IGNORE] * (len(bytes_P) - 1)
        weight = weight_of(record, document)
        weights = None if weight == 1 else [weight] * len(bytes_P)
        return CutRecord([Piece(bytes_P.tolist(), None, weights, classes)], [])

    def _bytes(self, image: Any, document: str) -> NDArray[np.int32]:
        expected = f"bytes of {' x '.join(map(str, self._shape_HWC))} (height x width x channels)"
        try:
            array: NDArray[Any] = np.asarray(image)
        except ValueError:
            raise DataError(f"document {document}: the image is a ragged list; the task reads {expected}") from None
        size = int(np.prod(self._shape_HWC))
        flat = array.ndim == 1 and array.size == size
        if array.dtype.kind not in "iu" or not (flat or array.shape in (self._shape_HWC, self._shape_HWC[:2])):
            raise DataError(
                f"document {document}: the image has shape {list(array.shape)} and values of type {array.dtype}; the "
                f"task reads {expected}: set task.height, width and channels, or resize the images"
            )
        if array.size != size:
            raise DataError(f"document {document}: the image has {array.size} values; the task reads {expected}")
        if int(array.min()) < 0 or int(array.max()) > 255:
            raise DataError(
                f"document {document}: the image has values from {array.min()} to {array.max()}; expected 0 .. 255"
            )
        return array.astype(np.int32).reshape(-1)

    def inputs(self, input_ids: NDArray[np.int32]) -> dict[str, NDArray[np.float32]]:
        """``pixel_values``, float32 [C, H, W]."""
        pixels_CHW = input_ids.reshape(self._shape_HWC).transpose(2, 0, 1).astype(np.float32) / np.float32(255)
        return {"pixel_values": np.ascontiguousarray((pixels_CHW - self._mean_C1) / self._std_C1)}
