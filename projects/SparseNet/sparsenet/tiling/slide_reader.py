"""Whole-slide images through OpenSlide: SVS, NDPI, MRXS and their like."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from sparsenet.errors import ImageReadError, MissingDependencyError
from sparsenet.tiling.handles import LocalHandles
from sparsenet.tiling.level_reader import DEFAULT_MAX_PIXELS, LevelReader, check_num_pixels
from sparsenet.tiling.window import Window

# OpenSlide does not tell the tiles of every format; a multiple of most.
_DEFAULT_BLOCK = 256


def import_openslide() -> Any:
    """The openslide module.

    Raises:
        MissingDependencyError: If it, or the OpenSlide library itself, is not installed.
    """
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            "Reading slides (SVS, NDPI, MRXS …) needs openslide-python and openslide-bin, which "
            f"are not installed ({error}). Install them with `pip install 'sparsenet[wsi]'`."
        ) from error
    return openslide


class SlideReader(LevelReader):
    """A slide: tiles at several resolutions, read at random.

    Args:
        path: The file; of MRXS, the one beside the folder of the same name.
        max_pixels: Larger slides are refused.

    Raises:
        ImageReadError: If the file is no readable slide, or too large.
        MissingDependencyError: If OpenSlide is not installed.
    """

    is_random_access = True

    def __init__(
        self, path: str | os.PathLike[str], *, max_pixels: float = DEFAULT_MAX_PIXELS
    ) -> None:
        import_openslide()
        self._file = str(path)
        with self._open() as slide:
            sizes = [(height, width) for width, height in slide.level_dimensions]
            check_num_pixels(self._file, sizes[0], max_pixels)
            self._steps: tuple[float, ...] = slide.level_downsamples
            self._block_heights = [
                int(slide.properties.get(f"openslide.level[{i}].tile-height", _DEFAULT_BLOCK))
                for i in range(len(sizes))
            ]
        self._handles = LocalHandles()
        super().__init__(self._file, sizes)

    def _open(self) -> Any:
        openslide = import_openslide()
        try:
            return openslide.OpenSlide(self._file)
        except openslide.OpenSlideError as error:
            raise ImageReadError(
                f"{self._file}: this is no slide that OpenSlide can read, or it is damaged or "
                f"incomplete ({error}). Copy it again, with the folder beside it if it has one."
            ) from error

    def _open_with_profile(self, _: int) -> tuple[Any, Any]:
        slide = self._open()
        profile = slide.color_profile
        if profile is None or "sRGB" in ImageCms.getProfileDescription(profile):
            return slide, None
        srgb = ImageCms.createProfile("sRGB")
        return slide, ImageCms.buildTransform(profile, srgb, "RGB", "RGB")

    def _block_height(self, level: int) -> int:
        return self._block_heights[level]

    def _fetch(self, level: int, window: Window) -> np.ndarray:
        slide, transform = self._handles.get(0, self._open_with_profile)
        start = (round(window.x * self._steps[level]), round(window.y * self._steps[level]))
        try:
            region = slide.read_region(start, level, (window.width, window.height))
        except import_openslide().OpenSlideError as error:
            raise ImageReadError(
                f"{self._file}: the slide is truncated or damaged at rows {window.y} to "
                f"{window.y2} of level {level} ({error}). Copy or download it again."
            ) from error
        picture = Image.new("RGB", region.size, (255, 255, 255))
        picture.paste(region, mask=region.getchannel("A"))
        if transform is not None:
            ImageCms.applyTransform(picture, transform, inPlace=True)
        return np.asarray(picture)
