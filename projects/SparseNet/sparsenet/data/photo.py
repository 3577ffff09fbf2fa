"""Photos as a classifier sees them: whole, upright, RGB.

Decoded with Pillow, as timm does in training, so that a picture gives the same pixels everywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageOps

from sparsenet.errors import DatasetNotFoundError, ImageReadError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# What Pillow's decoders raise on damaged files, and on sizes above its limit of 179 megapixels.
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)


def find_photos(folder: Path, suffixes: Iterable[str] = PHOTO_SUFFIXES) -> list[Path]:
    """The photos in a folder and the folders inside it, sorted by their path below it.

    Every file is listed once, on disks that ignore case, too; hidden ones are left out.

    Raises:
        DatasetNotFoundError: If there is no such folder.
    """
    if not folder.is_dir():
        raise DatasetNotFoundError(f"The photos must be in a folder, {folder} is none.")
    endings = {suffix.lower() for suffix in suffixes}
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def read_photo(path: Path, *, min_side: int | None = None) -> Image.Image:
    """A photo, turned as its EXIF data says.

    Args:
        path: Any format that Pillow reads.
        min_side: JPEGs may be decoded at a half, quarter or eighth of their size as long as both
            sides keep so many pixels; None decodes all.

    Raises:
        ImageReadError: If the file is missing, damaged or too large to be decoded safely.
    """
    try:
        with Image.open(path) as image:
            if min_side is not None:
                image.draft("RGB", (min_side, min_side))
            return ImageOps.exif_transpose(image).convert("RGB")
    except _DECODE_ERRORS as error:
        raise ImageReadError(
            f"{path} must be a whole image, reading it failed: {error}. Remove it or copy it again."
        ) from error
