"""Tiled pyramids of photos: how they are written and where they lie, being no further photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

PYRAMID_FOLDER = "pyramids"
PYRAMID_SUFFIXES = (".tif", ".tiff")
_TILE_SIDE = 256  # what detection reads is a few of them


def prefer_pyramids(dicts: list[dict[str, Any]], image_root: str | Path) -> int:
    """Points ``file_name`` at the tiled pyramid of an image, where there is one.

    A JPEG has to be decoded from its start for every window; a tiled TIFF only where it is looked
    at. For ``<root>/<folder>/<name>.jpg`` these are tried: ``<root>/<folder>/<name>.tif``, the
    same name in ``<root>/<folder>/pyramids``, ``<root>/pyramids/<folder>`` and, PANDA's place,
    ``<root>/../pyramids/<folder>``; then all of them with ``.tiff``.

    Args:
        dicts: Dataset dicts; changed in place.
        image_root: The dataset's image folder.

    Returns:
        Number of images that have a pyramid.
    """
    num_found = 0
    for item in dicts:
        places = _pyramid_places(Path(item["file_name"]), Path(image_root))
        pyramid = next((path for path in places if path.is_file()), None)
        if pyramid is not None:
            item["file_name"] = str(pyramid)
            num_found += 1
    return num_found


def without_pyramids(images: Sequence[Path], image_root: Path) -> list[Path]:
    """The images that are not the pyramid of another one of them, in their order."""
    if not any(image.suffix.lower() in PYRAMID_SUFFIXES for image in images):
        return list(images)
    pyramids = {place for image in images for place in _pyramid_places(image, image_root)}
    return [image for image in images if image not in pyramids]


def save_pyramid(image: Any, path: Path, quality: int) -> None:
    """Writes a pyvips image as tiled pyramidal TIFF with JPEG tiles."""
    image.tiffsave(
        str(path),
        tile=True,
        pyramid=True,
        compression="jpeg",
        Q=quality,
        tile_width=_TILE_SIDE,
        tile_height=_TILE_SIDE,
        # Classic TIFF ends at 4 GB; a JPEG tile needs at most about its raw size.
        bigtiff=image.width * image.height * 3 > 2**31,
    )


def show_progress(image: Any, description: str, quiet: bool) -> tqdm:
    """Connects a progress bar to the evaluation of a pyvips image."""
    bar = tqdm(total=100, desc=description, unit="%", disable=quiet, leave=False)
    image.set_progress(True)
    image.signal_connect("eval", lambda _, progress: bar.update(progress.percent - bar.n))
    return bar


def _pyramid_places(image: Path, root: Path) -> Iterator[Path]:
    """Where the pyramid of an image may lie; nowhere, if it is one itself."""
    if image.suffix.lower() in PYRAMID_SUFFIXES:
        return
    folders = [image.parent, image.parent / PYRAMID_FOLDER]
    if image.is_relative_to(root):
        below = image.parent.relative_to(root)
        folders += [parent / PYRAMID_FOLDER / below for parent in (root, root.parent)]
    for suffix in PYRAMID_SUFFIXES:
        for folder in folders:
            yield folder / (image.stem + suffix)
