"""Writing composed scenes: JPEG, tiled pyramidal TIFF, COCO truth and a contact sheet."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from sparsenet.data.pyramids import save_pyramid, show_progress
from sparsenet.data.scenes.pixels import PixelFile
from sparsenet.data.scenes.scene import CATEGORIES, SceneComposer, TruthOptions
from sparsenet.errors import ConfigError, OutputError
from sparsenet.files import write_atomically, write_text
from sparsenet.tiling.vips_reader import import_pyvips

logger = logging.getLogger(__name__)

SUFFIXES = {"jpeg": ".jpg", "tiff": ".tif"}
# The JPEG format stores sides in 16 bits and libjpeg stops at 65,500.
_MAX_JPEG_SIDE = 65_500
_SHEET_WIDTH = 1600
_CROP_SIDE = 160
_CROP_ROWS = 4
_COLOURS = {1: (255, 64, 64), 2: (64, 128, 255)}
_IGNORE_COLOUR = (255, 220, 0)


def check_format(size: tuple[int, int], formats: Sequence[str]) -> None:
    """Refuses what the formats cannot hold.

    Raises:
        ConfigError: If a format is unknown or an image of ``size`` does not fit into it.
    """
    unknown = sorted(set(formats) - set(SUFFIXES))
    if unknown or not formats:
        raise ConfigError(
            f"A scene is written as {' or '.join(SUFFIXES)} or both, got {list(formats)}. "
            "Name at least one."
        )
    if "jpeg" in formats and max(size) > _MAX_JPEG_SIDE:
        raise ConfigError(
            f"A JPEG has at most {_MAX_JPEG_SIDE} pixels per side, this scene has "
            f"{size[0]} x {size[1]} (height x width). Write it with --format tiff."
        )


def write_scene(
    composer: SceneComposer,
    stem: Path,
    *,
    formats: Sequence[str],
    quality: int = 88,
    truth: TruthOptions | None = None,
    quiet: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Composes a scene; writes ``stem.jpg`` and/or ``stem.tif`` and ``stem_contact_sheet.jpg``.

    The pixels go through a temporary file beside the output, so that memory stays at a few
    bands and both formats come from the same pixels.

    Args:
        composer: The scene; consumed.
        stem: Path of the files without suffix; the folder exists.
        formats: Any of ``"jpeg"``, ``"tiff"``.
        quality: JPEG quality of both formats, 1 to 100.
        truth: What becomes ignore.
        quiet: No progress bars.

    Returns:
        The COCO image record (without id) and the annotations (without ids).

    Raises:
        ConfigError: If a format cannot hold the scene.
        OutputError: If a file cannot be written.
    """
    check_format(composer.size, formats)
    height, width = composer.size
    sheet_path = stem.with_name(stem.name + "_contact_sheet.jpg")
    try:
        with tempfile.TemporaryDirectory(dir=stem.parent, prefix=".compose-") as folder:
            pixels = PixelFile(Path(folder) / "pixels.tif", composer.size)
            _write_bands(composer, pixels, stem.name, quiet)
            annotations = composer.truth(truth)
            names = [
                _encode(pixels, stem.with_suffix(SUFFIXES[f]), quality, quiet)
                for f in sorted(formats, reverse=True)
            ]
            write_picture(sheet_path, contact_sheet(pixels, annotations))
    except OSError as error:
        raise OutputError(
            f"The scene must be written to {stem.parent}, which failed: {error}. Free space there "
            f"({height * width * 3 / 1e9:.1f} GB are needed while it is composed) or name another."
        ) from error
    # The TIFF comes first: windows are read from it directly.
    record = {
        "file_name": names[0],
        "files": names,
        "contact_sheet": sheet_path.name,
        "height": height,
        "width": width,
    }
    return record, annotations


def write_annotations(
    path: Path, scenes: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]], info: dict[str, Any]
) -> dict[str, Any]:
    """Writes one COCO file for several scenes, ids from 1, and returns its content."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (image, found) in enumerate(scenes, start=1):
        images.append({"id": image_id, **image})
        for annotation in found:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
    content = {
        "info": info,
        "images": images,
        "annotations": annotations,
        "categories": list(CATEGORIES),
    }
    write_text(path, json.dumps(content))
    return content


def write_picture(path: Path, image: np.ndarray) -> None:
    """Writes an RGB array as JPEG."""
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OutputError(f"{path} must be a JPEG; OpenCV could not encode {image.shape}.")
    write_atomically(path, lambda part: part.write_bytes(encoded.tobytes()))


def contact_sheet(pixels: PixelFile, annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    """An overview with all boxes above rows of single objects, uint8 RGB.

    Red boxes are persons, blue ones vehicles, yellow ones ignored.
    """
    overview = _overview(pixels, annotations)
    columns = overview.shape[1] // _CROP_SIDE
    truth = [a for a in annotations if not a["iscrowd"]]
    people = [a for a in truth if a["category_id"] == 1]
    vehicles = [a for a in truth if a["category_id"] == 2]
    chosen = _spread(people, columns * _CROP_ROWS // 2) + _spread(
        vehicles, columns * _CROP_ROWS // 2
    )
    crops = [_crop(pixels, a) for a in chosen]
    rows = [overview]
    for start in range(0, len(crops), max(1, columns)):
        row = np.zeros((_CROP_SIDE, overview.shape[1], 3), np.uint8)
        for i, crop in enumerate(crops[start : start + columns]):
            row[:, i * _CROP_SIDE : (i + 1) * _CROP_SIDE] = crop
        rows.append(row)
    return np.concatenate(rows)


def _write_bands(composer: SceneComposer, pixels: PixelFile, name: str, quiet: bool) -> None:
    with tqdm(
        total=pixels.size[0], desc=f"compose {name}", unit="row", disable=quiet, leave=False
    ) as bar:
        for rows in pixels.write(composer.bands()):
            bar.update(rows)


def _encode(pixels: PixelFile, path: Path, quality: int, quiet: bool) -> str:
    """Writes the pixels in the format of the suffix of ``path``; returns its name."""
    vips = import_pyvips()
    image = vips.Image.new_from_file(str(pixels.path), access="sequential")

    def save(part: Path) -> None:
        if path.suffix == SUFFIXES["tiff"]:
            save_pyramid(image, part, quality)
        else:
            image.jpegsave(str(part), Q=quality)

    with show_progress(image, f"write {path.name}", quiet):
        try:
            write_atomically(path, save)
        except vips.Error as error:
            raise OSError(f"{path.name}: {error}") from error
    return path.name


def _overview(pixels: PixelFile, annotations: Sequence[dict[str, Any]]) -> np.ndarray:
    step = max(1, pixels.size[1] // _SHEET_WIDTH)
    chunk = 64 * step
    parts = [
        np.array(pixels.rows(top, top + chunk)[::step, ::step])
        for top in range(0, pixels.size[0], chunk)
    ]
    small = np.concatenate(parts)
    for annotation in annotations:
        x, y, w, h = (int(v / step) for v in annotation["bbox"])
        colour = _COLOURS[annotation["category_id"]]
        colour = _IGNORE_COLOUR if annotation["iscrowd"] else colour
        cv2.rectangle(small, (x, y), (x + w, y + h), colour, 1)
    return small


def _spread(annotations: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """``count`` objects, evenly spread over their order from far to near."""
    if len(annotations) <= count:
        return annotations
    return [annotations[i] for i in np.linspace(0, len(annotations) - 1, count).astype(int)]


def _crop(pixels: PixelFile, annotation: dict[str, Any]) -> np.ndarray:
    x, y, w, h = annotation["bbox"]
    side = int(max(w, h) * 1.3) + 2
    x1, y1 = max(0, x + w // 2 - side // 2), max(0, y + h // 2 - side // 2)
    part = np.array(pixels.rows(y1, y1 + side)[:, x1 : x1 + side])
    line = max(1, side // 100)
    colour = _COLOURS[annotation["category_id"]]
    cv2.rectangle(part, (x - x1, y - y1), (x - x1 + w, y - y1 + h), colour, line)
    factor = _CROP_SIDE / max(part.shape[:2])
    part = cv2.resize(part, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    tile = np.zeros((_CROP_SIDE, _CROP_SIDE, 3), np.uint8)
    tile[: part.shape[0], : part.shape[1]] = part[:_CROP_SIDE, :_CROP_SIDE]
    return tile
