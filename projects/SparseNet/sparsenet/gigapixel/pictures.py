"""Pictures of detections: the whole image with all of them, and a sheet of single objects."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sparsenet.errors import ConfigError, OutputError
from sparsenet.files import write_bytes
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports import class_color, class_name
from sparsenet.gigapixel.masks import decode_mask, mask_areas, mask_windows
from sparsenet.gigapixel.sweep import OverviewCollector, WindowCollector, sweep
from sparsenet.gigapixel.truth import Truth
from sparsenet.tiling.level_reader import ImageReader
from sparsenet.tiling.window import Window

MAX_SIDE = 2400
TRUTH_COLOR = (255, 255, 255)
_IGNORE_COLOR = (150, 150, 150)
_INK, _PAPER = (235, 235, 235), (24, 26, 30)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# Contact sheet: side of a crop, crops per row, rows per group; context around an object.
_CROP_SIDE, _COLUMNS, _ROWS = 176, 12, 3
_CONTEXT = 1.6
_CAPTION_HEIGHT = 30
_MASK_ALPHA = 0.4
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def draw_overview(
    reader: ImageReader,
    detections: Detections,
    path: str | os.PathLike[str],
    *,
    max_side: int = MAX_SIDE,
    truth: Truth | None = None,
) -> None:
    """Writes the whole image, small, with all boxes and masks and a legend.

    Args:
        reader: The image; a stored pyramid level is used where there is one, otherwise the image is
            decoded once in bands.
        detections: Full-image pixels.
        path: JPEG or PNG file.
        max_side: Limit of the picture's longer side, legend not included.
        truth: Drawn in white below the detections, ignore regions in grey.
    """
    pixels, downsample = read_overview(reader, max_side)
    write_picture(path, paint_overview(pixels, downsample, detections, truth))


def save_crops(
    reader: ImageReader,
    detections: Detections,
    path: str | os.PathLike[str],
    *,
    threshold: float = 0.0,
) -> None:
    """Writes a contact sheet: the most certain objects, then those closest to the threshold.

    Args:
        reader: The image.
        detections: Full-image pixels.
        path: JPEG or PNG file.
        threshold: Score at which detections are reported; "uncertain" means close to it.
    """
    groups = crop_groups(detections, threshold)
    collector = crop_collector(detections, groups)
    sweep(reader, [collector])
    write_picture(path, paint_crops(collector, detections, groups))


def overview_downsample(image_size: tuple[int, int], max_side: int = MAX_SIDE) -> int:
    """The smallest integer downsample at which the longer side is at most ``max_side``."""
    if max_side < 1:
        raise ConfigError(f"max_side must be at least 1 pixel, got {max_side}.")
    return -(-max(image_size) // max_side)


def read_overview(reader: ImageReader, max_side: int = MAX_SIDE) -> tuple[np.ndarray, int]:
    """The whole image at a low resolution, without ever holding all of it.

    Returns:
        (h, w, 3) uint8 RGB, and its downsample.
    """
    downsample = overview_downsample(reader.size, max_side)
    if len(reader.level_downsamples) > 1:
        height, width = reader.size
        return reader.read(Window(0, 0, width, height), downsample), downsample
    collector = OverviewCollector(reader.size, downsample)
    sweep(reader, [collector])
    return collector.pixels, downsample


def paint_overview(
    pixels: np.ndarray, downsample: float, detections: Detections, truth: Truth | None = None
) -> np.ndarray:
    """The overview with boxes and masks, above a legend; (h + legend, w, 3) uint8 RGB.

    The legend counts the classes that were found.

    Args:
        pixels: (h, w, 3) uint8 RGB.
        downsample: Full-image pixels per pixel of ``pixels``.
        detections: Full-image pixels.
        truth: See :func:`draw_overview`.
    """
    picture = np.ascontiguousarray(pixels).copy()
    entries = []
    if truth is not None:
        for is_ignore, color in ((True, _IGNORE_COLOR), (False, TRUTH_COLOR)):
            _draw_boxes(picture, truth.boxes_xyxy[truth.is_ignore == is_ignore] / downsample, color)
        entries.append((TRUTH_COLOR, f"truth {int((~truth.is_ignore).sum()):,}"))
    _tint_masks(picture, detections, scale=1 / downsample)
    counts = Counter(detections.classes.tolist())
    for index in sorted(counts):
        boxes = detections.boxes_xyxy[detections.classes == index] / downsample
        _draw_boxes(picture, boxes, class_color(index))
        name = class_name(detections.class_names, index)
        entries.append((class_color(index), f"{name} {counts[index]:,}"))
    height, width = detections.image_size
    caption = f"{width:,} x {height:,} px, {width * height / 1e6:,.1f} MP"
    return np.concatenate([picture, _legend(picture.shape[1], entries, caption)])


def _draw_boxes(picture: np.ndarray, boxes_xyxy: np.ndarray, color: tuple[int, int, int]) -> None:
    """Draws boxes in picture pixels; thin where they are small, never below 3 pixels."""
    for box in boxes_xyxy:
        side = max(box[2] - box[0], box[3] - box[1])
        x1, y1, x2, y2 = (round(float(v)) for v in box)
        corners = (x1, y1), (max(x2, x1 + 2), max(y2, y1 + 2))
        if side >= 24:  # a dark rim keeps the line visible on a ground of its own colour
            cv2.rectangle(picture, *corners, (0, 0, 0), 4)
        cv2.rectangle(picture, *corners, color, 2 if side >= 12 else 1)


def _tint_masks(
    picture: np.ndarray,
    detections: Detections,
    *,
    scale: float,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Tints masks in the colours of their classes and draws their edges, the largest first.

    Args:
        picture: (h, w, 3) uint8, changed in place; all boxes begin inside.
        detections: Without masks, nothing is drawn.
        scale: Pixels of the picture per full-image pixel.
        origin: x and y of the picture's corner, full-image pixels.
    """
    if detections.masks is None:
        return
    windows = mask_windows(detections.boxes_xyxy) - np.tile(origin, 2)
    places = mask_windows(windows * scale).tolist()
    for index in np.argsort(-mask_areas(detections.masks), kind="stable").tolist():
        x1, y1, x2, y2 = places[index]
        pixels = decode_mask(detections.masks[index]).astype(np.uint8)
        mask = cv2.resize(pixels, (x2 - x1, y2 - y1), interpolation=cv2.INTER_NEAREST_EXACT)
        ground = picture[y1:y2, x1:x2]
        mask = mask[: ground.shape[0], : ground.shape[1]]
        core = cv2.erode(mask, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        color = np.array(class_color(int(detections.classes[index])))
        is_inside = core > 0
        ground[is_inside] = (1 - _MASK_ALPHA) * ground[is_inside] + _MASK_ALPHA * color
        ground[mask > core] = color


def _legend(
    width: int, entries: Sequence[tuple[tuple[int, int, int], str]], caption: str
) -> np.ndarray:
    """Rows of swatches with text, as many as the entries need."""
    scale = 0.6 if width >= 900 else 0.45
    line = round(50 * scale)
    rows: list[list[tuple[int, tuple[int, int, int] | None, str]]] = [[]]
    x = 12
    for color, text in [*entries, (None, caption)]:
        length = cv2.getTextSize(text, _FONT, scale, 1)[0][0] + 56
        if x + length > width and rows[-1]:
            rows.append([])
            x = 12
        rows[-1].append((x, color, text))
        x += length
    strip = np.full((line * len(rows) + 8, width, 3), _PAPER, dtype=np.uint8)
    for number, row in enumerate(rows):
        baseline = number * line + round(line * 0.75)
        for x, color, text in row:
            if color is not None:
                cv2.rectangle(strip, (x, baseline - 13), (x + 16, baseline + 1), color, -1)
            start = (x + (24 if color is not None else 0), baseline)
            cv2.putText(strip, text, start, _FONT, scale, _INK, 1, cv2.LINE_AA)
    return strip


def crop_groups(detections: Detections, threshold: float) -> list[tuple[str, np.ndarray]]:
    """Titles and detection indices of the groups of a contact sheet; empty groups are left out."""
    most = _COLUMNS * _ROWS
    order = np.argsort(-detections.scores, kind="stable")
    certain = order[:most]
    rest = order[most:]
    doubt = np.abs(detections.scores[rest] - threshold)
    uncertain = rest[np.argsort(doubt, kind="stable")[:most]]
    groups = [
        ("Most certain", certain),
        (f"Closest to the threshold of {threshold:g}", uncertain),
    ]
    return [(title, indices) for title, indices in groups if len(indices)]


def crop_collector(
    detections: Detections, groups: Sequence[tuple[str, np.ndarray]]
) -> WindowCollector:
    """Collects a square window with some context around each detection of the groups."""
    chosen = [index for _, indices in groups for index in indices]
    windows = [_crop_window(detections.boxes_xyxy[i], detections.image_size) for i in chosen]
    return WindowCollector(windows, max_side=2 * _CROP_SIDE)


def _crop_window(box_xyxy: np.ndarray, image_size: tuple[int, int]) -> Window:
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    side = max(16, round(max(x2 - x1, y2 - y1) * _CONTEXT))
    x, y = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    height, width = image_size
    x, y = max(0, min(x, width - side)), max(0, min(y, height - side))
    return Window(x, y, side, side).clip(image_size)


def paint_crops(
    collector: WindowCollector, detections: Detections, groups: Sequence[tuple[str, np.ndarray]]
) -> np.ndarray:
    """The contact sheet from the collected pixels, in the order of :func:`crop_collector`."""
    if not groups:
        sheet = np.full((_CAPTION_HEIGHT * 2, _COLUMNS * _CROP_SIDE, 3), _PAPER, dtype=np.uint8)
        cv2.putText(sheet, "No detections", (12, 38), _FONT, 0.6, _INK, 1, cv2.LINE_AA)
        return sheet
    cells = iter(zip(collector.windows, collector.pixels))
    parts = []
    for title, indices in groups:
        bar = np.full((_CAPTION_HEIGHT, _COLUMNS * _CROP_SIDE, 3), _PAPER, dtype=np.uint8)
        cv2.putText(bar, title, (8, 21), _FONT, 0.55, _INK, 1, cv2.LINE_AA)
        crops = [_paint_crop(*next(cells), detections, int(i)) for i in indices]
        parts += [bar, _grid(crops)]
    return np.concatenate(parts)


def _paint_crop(
    window: Window, pixels: np.ndarray, detections: Detections, index: int
) -> np.ndarray:
    """One object on a square of the sheet, with its box, mask and score."""
    scale = _CROP_SIDE / max(window.size)
    size = (max(1, round(window.width * scale)), max(1, round(window.height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    cell = np.full((_CROP_SIDE, _CROP_SIDE, 3), _PAPER, dtype=np.uint8)
    shown = cell[: size[1], : size[0]]
    shown[:] = cv2.resize(pixels, size, interpolation=method)
    _tint_masks(shown, detections[np.array([index])], scale=scale, origin=(window.x, window.y))
    box = (detections.boxes_xyxy[index] - np.array([window.x, window.y] * 2)) * scale
    x1, y1, x2, y2 = (round(float(v)) for v in box)
    color = class_color(int(detections.classes[index]))
    cv2.rectangle(cell, (x1, y1), (x2, y2), color, 1)
    name = class_name(detections.class_names, int(detections.classes[index]))
    text = f"{name} {detections.scores[index]:.2f}"
    for ink, weight in (((0, 0, 0), 3), (_INK, 1)):
        cv2.putText(cell, text, (6, _CROP_SIDE - 8), _FONT, 0.42, ink, weight, cv2.LINE_AA)
    cell[0], cell[:, 0] = _PAPER, _PAPER
    return cell


def _grid(cells: list[np.ndarray]) -> np.ndarray:
    blank = np.full_like(cells[0], _PAPER[0])
    cells = cells + [blank] * (-len(cells) % _COLUMNS)
    rows = [np.concatenate(cells[i : i + _COLUMNS], axis=1) for i in range(0, len(cells), _COLUMNS)]
    return np.concatenate(rows)


def write_picture(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Writes an RGB picture atomically; the suffix decides the format.

    Raises:
        OutputError: If the format is unknown or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".jpg", ".jpeg", ".png"):
        raise OutputError(f"A picture must be a .jpg or .png file, got {path}.")
    _, encoded = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    write_bytes(path, encoded.tobytes())
