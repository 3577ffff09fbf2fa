"""Deep Zoom images: a ``.dzi`` file and the folder of tiles beside it.

The folder ``{name}_files/{n}`` has the image at ``2 ** (last - n)`` full pixels per pixel, cut into
tiles ``{column}_{row}`` that share ``Overlap`` pixels with each neighbour.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from sparsenet.errors import ImageReadError
from sparsenet.tiling.level_reader import DEFAULT_MAX_PIXELS, LevelReader, check_num_pixels
from sparsenet.tiling.vips_reader import VipsReader
from sparsenet.tiling.window import Window


class DeepZoomReader(LevelReader):
    """An image that is stored as Deep Zoom tiles.

    Args:
        path: The ``.dzi`` file.
        max_pixels: Larger images are refused.

    Raises:
        ImageReadError: If the file is no Deep Zoom description, its tiles are missing, or the image
            is too large.
        MissingDependencyError: If pyvips, which decodes the tiles, is not installed.
    """

    is_random_access = True

    def __init__(self, path: Path, *, max_pixels: float = DEFAULT_MAX_PIXELS) -> None:
        size, self._tile_size, self._overlap, self._suffix = _read_description(path)
        check_num_pixels(str(path), size, max_pixels)
        self._folder = path.with_name(f"{path.stem}_files")
        self._last_level = (max(size) - 1).bit_length()
        sizes = [size]
        while max(sizes[-1]) > 1 and self._level_folder(len(sizes)).is_dir():
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        if not self._level_folder(0).is_dir():
            raise ImageReadError(
                f"{path}: the tiles of its full resolution must lie in {self._level_folder(0)}, "
                "which is no folder. Copy the folder of tiles beside the .dzi file."
            )
        super().__init__(str(path), sizes, [2**level for level in range(len(sizes))])

    def _level_folder(self, level: int) -> Path:
        return self._folder / str(self._last_level - level)

    def _block_height(self, level: int) -> int:
        return self._tile_size

    def _fetch(self, level: int, window: Window) -> np.ndarray:
        pixels = np.empty((*window.size, 3), np.uint8)
        side = self._tile_size
        for row in range(window.y // side, -(-window.y2 // side)):
            for column in range(window.x // side, -(-window.x2 // side)):
                tile = self._tile_window(level, column, row)
                part = tile.intersection(window)
                source, target = part.shift(-tile.x, -tile.y), part.shift(-window.x, -window.y)
                pixels[target.y : target.y2, target.x : target.x2] = self._read_tile(
                    level, column, row, tile.size
                )[source.y : source.y2, source.x : source.x2]
        return pixels

    def _tile_window(self, level: int, column: int, row: int) -> Window:
        """The pixels of the level that a tile shows, its overlap with its neighbours included."""
        side, overlap = self._tile_size, self._overlap
        inner = Window(column * side, row * side, side, side)
        outer = Window(inner.x - overlap, inner.y - overlap, side + 2 * overlap, side + 2 * overlap)
        return outer.clip(self._level_sizes[level])

    def _read_tile(self, level: int, column: int, row: int, size: tuple[int, int]) -> np.ndarray:
        path = self._level_folder(level) / f"{column}_{row}.{self._suffix}"
        if not path.is_file():
            raise ImageReadError(
                f"{self.path}: the tile {path} is missing. Copy the whole folder of tiles."
            )
        tile = VipsReader(path, max_pixels=(self._tile_size + 2 * self._overlap) ** 2)
        if tile.size != size:
            raise ImageReadError(
                f"{path}: a tile of {size} (h, w) pixels was expected, this one has {tile.size}. "
                f"The description {self.path} does not belong to these tiles."
            )
        return tile.read(Window(0, 0, *size[::-1]))


def _read_description(path: Path) -> tuple[tuple[int, int], int, int, str]:
    """``(h, w)``, side and overlap of a tile, and the ending of the tiles' names."""
    try:
        root = ElementTree.parse(path).getroot()
        shape = root.find("{*}Size")
        if shape is None:
            raise KeyError("Size")
        size = (int(shape.attrib["Height"]), int(shape.attrib["Width"]))
        tile_size, overlap = int(root.attrib["TileSize"]), int(root.attrib["Overlap"])
        suffix = root.attrib["Format"]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise ImageReadError(
            f"{path}: a Deep Zoom description must be XML with an Image of TileSize, Overlap and "
            f"Format, and a Size of Width and Height; reading it gave {error!r}."
        ) from error
    if min(*size, tile_size) < 1 or not 0 <= overlap < tile_size or not suffix.isalnum():
        raise ImageReadError(
            f"{path}: Width, Height and TileSize must be at least 1, Overlap less than TileSize "
            f"and Format letters; got {size[1]}, {size[0]}, {tile_size}, {overlap} and {suffix!r}."
        )
    return size, tile_size, overlap, suffix
