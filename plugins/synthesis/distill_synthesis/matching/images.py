"""Labelled images: from records to tensors and back.

Legend: N images, C channels, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_core.errors import DataError
from distill_synthesis.matching.options import ImageFields


@dataclass(frozen=True)
class LabelledImages:
    """Images of one size with their classes.

    Args:
        pixels_NCHW: uint8.
        class_N: int64, places in ``labels``.
        labels: what classes 0, 1, ... are called, as the records write them.
        documents: ids of the records, N of them.
        form: shape of an image in a record: (H W,) or (H W C,), (H, W), (H, W, C).
    """

    pixels_NCHW: Tensor
    class_N: Tensor
    labels: tuple[Any, ...]
    documents: tuple[str, ...]
    form: tuple[int, ...]

    def of_class(self, number: int) -> Tensor:
        """Indices int64 of the images of a class, in order."""
        return (self.class_N == number).nonzero()[:, 0]

    def take(self, indices: Tensor) -> LabelledImages:
        """Some of the images."""
        documents = tuple(self.documents[int(index)] for index in indices)
        return replace(self, pixels_NCHW=self.pixels_NCHW[indices], class_N=self.class_N[indices], documents=documents)

    def fingerprint(self) -> str:
        """sha256 of pixels, classes and labels."""
        state = hashlib.sha256(repr((self.labels, tuple(self.pixels_NCHW.shape))).encode())
        state.update(self.pixels_NCHW.numpy().tobytes())
        state.update(self.class_N.numpy().tobytes())
        return state.hexdigest()

    def in_form(self, pixels_CHW: Tensor) -> list[Any]:
        """An image [C, H, W] uint8 as the records have theirs: a list, nested in the same way."""
        array: NDArray[Any] = pixels_CHW.permute(1, 2, 0).numpy().reshape(self.form)
        nested: list[Any] = array.tolist()
        return nested


@dataclass(frozen=True)
class Scale:
    """Between bytes and what networks read: ``(byte / 255 - mean) / std``, mean and std per channel, fp32 [C, 1, 1].

    >>> scale = Scale(torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 0.5))
    >>> scale.read(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).tolist()
    [[[[-1.0, 1.0]]]]
    """

    mean_C11: Tensor
    std_C11: Tensor

    @classmethod
    def of(cls, pixels_NCHW: Tensor) -> Scale:
        """So that the pixels of every channel get mean 0 and standard deviation 1."""
        shares = pixels_NCHW.double() / 255
        std, mean = torch.std_mean(shares, dim=(0, 2, 3), correction=0)
        return cls(mean.float()[:, None, None], std.clamp_min(1e-3).float()[:, None, None])

    def read(self, pixels_NCHW: Tensor) -> Tensor:
        """fp32 from bytes."""
        return (pixels_NCHW.float() / 255 - self.mean_C11) / self.std_C11

    def bounds(self) -> tuple[Tensor, Tensor]:
        """What bytes 0 and 255 become, each [C, 1, 1]."""
        return (0 - self.mean_C11) / self.std_C11, (1 - self.mean_C11) / self.std_C11

    def write(self, images_NCHW: Tensor) -> Tensor:
        """The nearest bytes, uint8."""
        shares = images_NCHW * self.std_C11 + self.mean_C11
        return (shares * 255).round().clamp(0, 255).to(torch.uint8)


def read_images(records: Iterable[Mapping[str, Any]], fields: ImageFields) -> LabelledImages:
    """All images of the records.

    Raises:
        DataError: no record, one without image or label, images of several sizes, values that are no bytes, a class
            of ``fields.labels`` without a record, or a label that is not among them.
    """
    arrays: list[NDArray[np.uint8]] = []
    labels: list[Any] = []
    documents: list[str] = []
    form: tuple[int, ...] | None = None
    for index, record in enumerate(records):
        document = str(record.get("document", f"record {index}"))
        array = _bytes(_field(record, fields.image, "image", document), document)
        if form is None:
            form = array.shape
        elif array.shape != form:
            raise DataError(
                f"document {document}: the image is {list(array.shape)}, those before it are {list(form)}; all images "
                "must be of one size: resize them, or leave that record out"
            )
        arrays.append(array)
        labels.append(_field(record, fields.label, "label", document))
        documents.append(document)
    if form is None:
        raise DataError("the source has no record; expected labelled images")
    known = _labels(labels, fields)
    numbers = {str(label): number for number, label in enumerate(known)}
    pixels_NHWC = np.stack(arrays).reshape(len(arrays), *_size(form, fields))
    return LabelledImages(
        torch.from_numpy(np.ascontiguousarray(pixels_NHWC.transpose(0, 3, 1, 2))),
        torch.tensor([numbers[str(label)] for label in labels]),
        known,
        tuple(documents),
        form,
    )


def _field(record: Mapping[str, Any], name: str, option: str, document: str) -> Any:
    if record.get(name) is None:
        raise DataError(
            f"document {document}: no field {name!r}, received {sorted(record)}; expected labelled images: name the "
            f"field with the option `{option}`, and keep it in the source (`fields`)"
        )
    return record[name]


def _bytes(image: Any, document: str) -> NDArray[np.uint8]:
    try:
        array: NDArray[Any] = np.asarray(image)
    except ValueError:
        raise DataError(f"document {document}: the image is a ragged list; expected rows of equal length") from None
    if array.dtype.kind not in "iu" or array.ndim not in (1, 2, 3) or not array.size:
        raise DataError(
            f"document {document}: the image has shape {list(array.shape)} and values of type {array.dtype}; expected "
            "bytes of height x width (x channels), or a flat list of them"
        )
    if int(array.min()) < 0 or int(array.max()) > 255:
        raise DataError(
            f"document {document}: the image has values from {array.min()} to {array.max()}; expected 0 .. 255"
        )
    return array.astype(np.uint8)


def _size(form: tuple[int, ...], fields: ImageFields) -> tuple[int, int, int]:
    """(H, W, C) of a record's image."""
    if len(form) > 1:
        size = (form[0], form[1], form[2] if len(form) == 3 else 1)
        if fields.height is not None and (fields.height, fields.width) != size[:2]:
            raise DataError(
                f"images are {size[0]} x {size[1]}, but height and width say {fields.height} x {fields.width}: leave "
                "both out, they are for flat lists"
            )
        return size
    if fields.height is None or fields.width is None:
        raise DataError(f"images are flat lists of {form[0]} values: say which size they have with height and width")
    channels, rest = divmod(form[0], fields.height * fields.width)
    if rest or not channels:
        raise DataError(
            f"images are flat lists of {form[0]} values, which is no multiple of height x width = {fields.height} x "
            f"{fields.width}: set the size they have"
        )
    return fields.height, fields.width, channels


def _labels(found: list[Any], fields: ImageFields) -> tuple[Any, ...]:
    """The classes in their order, each as the first record that has it writes it."""
    written = {str(label): label for label in reversed(found)}
    if fields.labels is None:
        return tuple(written[name] for name in sorted(written, key=lambda name: (len(name), name)))
    unknown = sorted(set(written) - set(fields.labels))
    if unknown:
        raise DataError(f"labels {unknown[:5]} of the source are not among the option `labels` {fields.labels}")
    missing = [name for name in fields.labels if name not in written]
    if missing:
        raise DataError(
            f"no record of the class {', '.join(missing[:5])}: nothing can be matched for it; add records, or take it "
            "out of `labels`"
        )
    return tuple(written[name] for name in fields.labels)
