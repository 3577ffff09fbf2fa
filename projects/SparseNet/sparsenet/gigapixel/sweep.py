"""One pass over the pixels of an image for everything that wants to show them.

The overview, the crops and the Deep Zoom tiles each need the whole image at full resolution. A
:func:`sweep` decodes it once, in row bands, and shows every band to each :class:`BandConsumer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from tqdm import tqdm

from sparsenet.tiling.level_reader import ImageReader
from sparsenet.tiling.resample import shrink_area
from sparsenet.tiling.window import Window


class BandConsumer(Protocol):
    """Takes the rows of an image in order."""

    def add(self, band: np.ndarray, y: int) -> None:
        """Takes rows ``[y, y + h)`` of the image: (h, w, 3) uint8, valid during this call only."""
        ...


def sweep(
    reader: ImageReader,
    consumers: Sequence[BandConsumer],
    *,
    band_height: int = 512,
    progress: bool = False,
) -> None:
    """Shows all rows of an image to all consumers, decoding each pixel once."""
    y = 0
    with tqdm(total=reader.size[0], desc="pictures", unit="row", disable=not progress) as bar:
        for band in reader.bands(band_height):
            for consumer in consumers:
                consumer.add(band, y)
            y += len(band)
            bar.update(len(band))


class OverviewCollector:
    """Builds the whole image at an integer downsample.

    Args:
        image_size: ``(h, w)`` in full-image pixels.
        downsample: Full-image pixels per overview pixel.
    """

    def __init__(self, image_size: tuple[int, int], downsample: int) -> None:
        height, width = (-(-side // downsample) for side in image_size)
        self.pixels = np.zeros((height, width, 3), dtype=np.uint8)
        self._downsample = downsample
        self._last_y = image_size[0]
        self._pending: list[np.ndarray] = []
        self._done = 0

    def add(self, band: np.ndarray, y: int) -> None:
        """See :class:`BandConsumer`. Rows that do not fill a whole block wait for the next band."""
        is_last = y + len(band) >= self._last_y
        rows = np.concatenate([*self._pending, band]) if self._pending else band
        usable = len(rows) if is_last else len(rows) // self._downsample * self._downsample
        # A copy: the band's memory is used again by the reader.
        self._pending = [rows[usable:].copy()] if usable < len(rows) else []
        if usable:
            shrunk = shrink_area(rows[:usable], self._downsample)
            self.pixels[self._done : self._done + len(shrunk)] = shrunk
            self._done += len(shrunk)


class WindowCollector:
    """Cuts windows out of the passing bands.

    Args:
        windows: Inside the image; any order, may overlap.
        max_side: Larger windows are thinned to every n-th pixel, so that both sides stay at or
            below this. None keeps every pixel.
    """

    def __init__(self, windows: Sequence[Window], *, max_side: int | None = None) -> None:
        self.windows = list(windows)
        limits = [max_side or max(window.size) for window in self.windows]
        self._steps = [-(-max(w.size) // limit) for w, limit in zip(self.windows, limits)]
        self.pixels = [
            np.zeros((-(-w.height // step), -(-w.width // step), 3), dtype=np.uint8)
            for w, step in zip(self.windows, self._steps)
        ]

    def add(self, band: np.ndarray, y: int) -> None:
        """See :class:`BandConsumer`."""
        for window, step, pixels in zip(self.windows, self._steps, self.pixels):
            top, bottom = max(window.y, y), min(window.y2, y + len(band))
            first = -(-(top - window.y) // step)  # first output row inside the band
            start = window.y + first * step
            if start < bottom:
                part = band[start - y : bottom - y : step, window.x : window.x2 : step]
                pixels[first : first + len(part)] = part
