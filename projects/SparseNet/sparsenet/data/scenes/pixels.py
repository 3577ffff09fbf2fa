"""The uncompressed pixels of one image on disk, written and read in rows.

The file is a BigTIFF with plain strips behind a header of fixed size. Encoders read it as a stream:
libvips maps raw files as a whole, and what is mapped counts as memory of the process (1.2 GB for
400 megapixels).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

_STRIP = 16  # rows
_SHORT, _LONG, _LONG8 = 3, 4, 16  # TIFF's field types


class PixelFile:
    """An RGB image that is written once from top to bottom.

    Args:
        path: The file; its suffix should be ``.tif``.
        size: ``(height, width)`` in pixels.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path = path
        self.size = size
        self._header = _header(size)

    def write(self, bands: Iterable[np.ndarray]) -> Iterator[int]:
        """Writes uint8 RGB bands of full width; yields the number of rows after each."""
        with open(self.path, "wb") as stream:
            stream.write(self._header)
            for band in bands:
                stream.write(np.ascontiguousarray(band).data)
                yield len(band)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Some rows, mapped anew: the pages of a mapping that is kept count as our memory."""
        shape = (min(bottom, self.size[0]) - top, self.size[1], 3)
        offset = len(self._header) + top * self.size[1] * 3
        return np.memmap(self.path, np.uint8, "r", offset=offset, shape=shape)


def _header(size: tuple[int, int]) -> bytes:
    """Everything before the pixels: BigTIFF header, directory, strip offsets and lengths."""
    height, width = size
    starts = range(0, height, _STRIP)
    count = len(starts)
    num_fields = 10
    tables = 16 + 8 + 20 * num_fields + 8
    pixels = tables + 16 * count
    offsets = [pixels + top * width * 3 for top in starts]
    lengths = [(min(height, top + _STRIP) - top) * width * 3 for top in starts]
    fields = [
        _field(256, _LONG, width),
        _field(257, _LONG, height),
        struct.pack("<HHQHHHH", 258, _SHORT, 3, 8, 8, 8, 0),  # bits per sample
        _field(259, _SHORT, 1),  # no compression
        _field(262, _SHORT, 2),  # RGB
        _table(273, offsets, tables),
        _field(277, _SHORT, 3),  # samples per pixel
        _field(278, _LONG, _STRIP),
        _table(279, lengths, tables + 8 * count),
        _field(284, _SHORT, 1),  # channels interleaved
    ]
    head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, num_fields)
    data = struct.pack(f"<{2 * count}Q", *offsets, *lengths)
    return head + b"".join(fields) + struct.pack("<Q", 0) + data


def _field(tag: int, kind: int, value: int) -> bytes:
    return struct.pack("<HHQQ", tag, kind, 1, value)


def _table(tag: int, values: list[int], position: int) -> bytes:
    """A field with many values, which stand at ``position``; a single one stands in the field."""
    return struct.pack(
        "<HHQQ", tag, _LONG8, len(values), position if len(values) > 1 else values[0]
    )
