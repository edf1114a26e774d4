"""Images of bytes as PNG inside a page: no file, no library.

Legend: N images, H height, W width, C channels.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}
"""Of PNG, by channels: grey, red green blue, the same with opacity."""


def png(pixels_HWC: Bytes) -> bytes:
    """A PNG file of 8 bits per channel.

    Args:
        pixels_HWC: uint8, 1 channel (grey), 3 (RGB) or 4 (RGBA).

    Raises:
        ValueError: another type, another number of channels, or no pixel.

    >>> png(np.zeros((2, 2, 1), dtype=np.uint8))[:4]
    b'\\x89PNG'
    """
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3 or pixels_HWC.shape[2] not in COLOUR_TYPES:
        raise ValueError(
            f"pixels_HWC is {pixels_HWC.dtype} {list(pixels_HWC.shape)}; expected uint8 [height, width, 1, 3 or 4]"
        )
    height, width, channels = pixels_HWC.shape
    if not height or not width:
        raise ValueError(f"pixels_HWC is {list(pixels_HWC.shape)}: an image needs a pixel")
    # Every row begins with the number of its filter; 0 is none.
    rows = np.zeros((height, 1 + width * channels), dtype=np.uint8)
    rows[:, 1:] = pixels_HWC.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def data_uri(pixels_HWC: Bytes) -> str:
    """What an ``img`` takes as its source."""
    return "data:image/png;base64," + base64.b64encode(png(pixels_HWC)).decode()


def strip(images_NHWC: Sequence[Bytes]) -> Bytes:
    """Images of one size side by side with a clear column between them: [H, N W + N - 1, 4] (RGBA).

    >>> strip([np.zeros((2, 2, 1), dtype=np.uint8)] * 3).shape
    (2, 8, 4)
    """
    height, width, channels = images_NHWC[0].shape
    found = np.zeros((height, len(images_NHWC) * (width + 1) - 1, 4), dtype=np.uint8)
    for index, image_HWC in enumerate(images_NHWC):
        left = index * (width + 1)
        colours = image_HWC if channels > 1 else image_HWC.repeat(3, axis=2)
        found[:, left : left + width, : colours.shape[2]] = colours
        if channels != 4:
            found[:, left : left + width, 3] = 255
    return found
