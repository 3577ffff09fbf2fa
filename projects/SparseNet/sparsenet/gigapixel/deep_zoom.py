"""Deep Zoom tiles (the DZI pyramid that OpenSeadragon shows), written in one pass over the bands.

Any reader's pixels can be shown this way, as the detector saw them: rotated by EXIF, in sRGB.
Memory is two rows of tiles per level, whatever the image's height.
"""

from __future__ import annotations

import math
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from sparsenet.errors import OutputError
from sparsenet.files import make_folder
from sparsenet.tiling.resample import shrink_area

TILE_SIZE = 512
TILE_SUFFIX = "jpg"
_QUALITY = 85
# Encoded tiles waiting for the disk; more would only fill memory.
_MAX_PENDING = 64


class DeepZoomWriter:
    """A band consumer that writes ``folder/{level}/{column}_{row}.jpg``.

    Level 0 is one pixel, the last level the full image. Use as a context manager: leaving it waits
    for the files and reports the first failure.

    Args:
        folder: Usually named ``…_files``.
        image_size: ``(h, w)`` in full-image pixels.
        num_threads: Threads that encode JPEG.

    Raises:
        OutputError: If a tile cannot be written.
    """

    def __init__(self, folder: Path, image_size: tuple[int, int], *, num_threads: int = 2) -> None:
        self._folder = folder
        self._last_y = image_size[0]
        num_levels = math.ceil(math.log2(max(*image_size, 1))) + 1
        self._levels = [_Level(make_folder(folder / str(i))) for i in range(num_levels)]
        self._pool = ThreadPoolExecutor(num_threads)
        self._pending: list[Future[None]] = []

    def __enter__(self) -> DeepZoomWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._wait(0)

    def add(self, band: np.ndarray, y: int) -> None:
        """See :class:`~sparsenet.gigapixel.sweep.BandConsumer`."""
        self._add_to_level(len(self._levels) - 1, band.copy(), y + len(band) >= self._last_y)

    def _add_to_level(self, index: int, rows: np.ndarray, is_last: bool) -> None:
        level = self._levels[index]
        level.pending.append(rows)
        while level.num_pending >= TILE_SIZE or (is_last and level.num_pending):
            tile_row = level.take(TILE_SIZE)
            self._write_row(level, tile_row)
            level.row += 1
            if index > 0:
                is_end = is_last and not level.num_pending
                self._add_to_level(index - 1, shrink_area(tile_row, 2), is_end)

    def _write_row(self, level: _Level, rows: np.ndarray) -> None:
        for column, x in enumerate(range(0, rows.shape[1], TILE_SIZE)):
            path = level.folder / f"{column}_{level.row}.{TILE_SUFFIX}"
            tile = rows[:, x : x + TILE_SIZE]
            self._pending.append(self._pool.submit(_write_tile, path, tile))
        self._wait(_MAX_PENDING)

    def _wait(self, limit: int) -> None:
        """Waits until at most ``limit`` tiles are on their way; raises what failed."""
        while len(self._pending) > limit:
            self._pending.pop(0).result()


class _Level:
    """The tile row being filled of one level."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.row = 0
        self.pending: list[np.ndarray] = []

    @property
    def num_pending(self) -> int:
        return sum(len(rows) for rows in self.pending)

    def take(self, count: int) -> np.ndarray:
        """Removes and returns the first ``count`` rows, or all there are."""
        rows = self.pending[0] if len(self.pending) == 1 else np.concatenate(self.pending)
        self.pending = [rows[count:]] if len(rows) > count else []
        return rows[:count]


def _write_tile(path: Path, pixels: np.ndarray) -> None:
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(f".{TILE_SUFFIX}", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    try:
        if not done:
            raise OSError("OpenCV could not encode the tile")
        # Thousands of small files: the index.html written last says that all of them are there.
        path.write_bytes(encoded.tobytes())
    except OSError as error:
        raise OutputError(
            f"The viewer's tile {path} must be written, which failed: {error}. Free some space or "
            "leave the viewer out with --no-viewer."
        ) from error
