"""What every reader of annotation files returns, and how all of them treat boxes and mistakes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode
from PIL import Image

from sparsenet.errors import AnnotationError, DatasetNotFoundError, ImageReadError
from sparsenet.tiling.reader import open_image

MAX_SHOWN_PROBLEMS = 5
CLASSES_FILE = "classes.txt"

_ORIENTATION = 0x0112  # EXIF tag; from 5 on, width and height change places


@dataclass(frozen=True)
class LoadedDataset:
    """The content of checked annotation files.

    Args:
        dicts: Detectron2's dataset dicts, in the order of the files' images.
        class_names: By contiguous class.
        class_of_category: From the files' category id to contiguous class.
    """

    dicts: list[dict[str, Any]]
    class_names: tuple[str, ...]
    class_of_category: dict[int, int]


def require_no_problems(source: str | Path, problems: Sequence[str]) -> None:
    """Raises AnnotationError with the first of the problems, if there are any."""
    if problems:
        shown = "\n  ".join(problems[:MAX_SHOWN_PROBLEMS])
        raise AnnotationError(
            f"{source}: every entry must be well formed, {len(problems)} are not:\n  "
            f"{shown}\nCorrect or remove these entries."
        )


def clip_box(
    box_xyxy: Sequence[float], image_size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """A box cut at the image's sides, ``image_size`` being (h, w); None where nothing is left."""
    height, width = image_size
    x, y = max(box_xyxy[0], 0.0), max(box_xyxy[1], 0.0)
    x2, y2 = min(box_xyxy[2], float(width)), min(box_xyxy[3], float(height))
    return (x, y, x2, y2) if x2 > x and y2 > y else None


def make_annotation(
    box_xyxy: Sequence[float], one_class: int, *, is_ignore: bool
) -> dict[str, Any]:
    """Detectron2's annotation of one object, or of a region that counts for nothing."""
    return {
        "bbox": list(box_xyxy),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": one_class,
        "iscrowd": int(is_ignore),
    }


def read_image_size(path: Path) -> tuple[int, int]:
    """(h, w) of an image as training reads it, turned as its EXIF data says; from the header alone.

    Raises:
        ImageReadError: If the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            is_turned = image.getexif().get(_ORIENTATION, 1) >= 5
    except Image.DecompressionBombError:  # a limit of Pillow's decoders, which are not used here
        return open_image(path).size
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        raise ImageReadError(
            f"{path} must be an image, reading its header failed: {error}. Copy it again or remove "
            "its annotations."
        ) from error
    return (width, height) if is_turned else (height, width)


def read_text(path: Path) -> str:
    """The content of a UTF-8 text file, with or without a byte order mark.

    Raises:
        DatasetNotFoundError: If there is no such file.
        AnnotationError: If it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetNotFoundError(
            f"The annotation file {path} does not exist. Check the path, or make the dataset as "
            "datasets/README.md describes."
        ) from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} must be UTF-8 text: {error}. Save it again.") from error


def read_class_names(*folders: Path) -> tuple[str, ...]:
    """The lines of the first ``classes.txt`` in one of the folders; none where there is no such.

    Raises:
        AnnotationError: If a name occurs twice.
    """
    path = next((f / CLASSES_FILE for f in folders if (f / CLASSES_FILE).is_file()), None)
    if path is None:
        return ()
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    require_unique_names(names, path)
    return names


def require_unique_names(names: Sequence[str], source: str | Path) -> None:
    """Raises AnnotationError if a class name occurs twice."""
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise AnnotationError(
            f"{source}: class names must differ, {', '.join(repeated)} occurs more than once."
        )
