"""Reads YOLO labels: a text file per image, a line ``class x_centre y_centre width height`` each.

Numbers are shares of the image's sides. A line with more numbers is an outline ``class x1 y1 x2 y2
...``, of which the surrounding box is taken. An image without a label file has no objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsenet.data.loaded_dataset import (
    CLASSES_FILE,
    LoadedDataset,
    clip_box,
    make_annotation,
    read_class_names,
    read_image_size,
    read_text,
    require_no_problems,
    require_unique_names,
)
from sparsenet.data.photo import find_photos
from sparsenet.data.pyramids import without_pyramids
from sparsenet.errors import AnnotationError, DatasetNotFoundError

YOLO_TREE = """\
mine/
  data.yaml          names: [cat, dog]; train: images/train; val: images/val; path: (default: .)
  images/train/a.jpg ...
  labels/train/a.txt ...             one line per object; none for an image without objects
or, without data.yaml, images/ and labels/ (or images and labels in one folder) and
  classes.txt        the class names in order, unless DATASETS.CLASS_NAMES has them
"""
DATA_FILES = ("data.yaml", "data.yml", "dataset.yaml")
# Coordinates are written with few digits: a box on the border may end this far outside.
_TOLERANCE = 1e-3


def read_yolo(
    source: str | Path, split: str = "", *, class_names: Sequence[str] = ()
) -> LoadedDataset:
    """Reads and checks images with YOLO's labels.

    Args:
        source: A ``data.yaml``, or a folder; see ``YOLO_TREE``.
        split: A key of ``data.yaml``, or the folder inside ``images`` (or around it); may be ""
            where there is no ``data.yaml``.
        class_names: In order; empty takes those of ``data.yaml`` or ``classes.txt``.

    Returns:
        Dataset dicts with boxes (XYXY, absolute, clipped to the image); image ids count from 1.

    Raises:
        DatasetNotFoundError: If a file, a folder or the split is missing, or no image has labels.
        AnnotationError: If a file is malformed or a label file has no image. The message names
            files and lines.
    """
    path = Path(source)
    if path.is_dir():
        path = next((path / name for name in DATA_FILES if (path / name).is_file()), path)
    if path.is_dir():
        names = tuple(class_names) or read_class_names(path, path / "labels")
        places = [_split_folder(path, split)]
    else:
        content = _read_data_yaml(path)
        names = tuple(class_names) or _names_of(content, path)
        places = _split_places(content, split, path)
    if not names:
        raise AnnotationError(
            f"{path} needs class names: write {CLASSES_FILE} with one name per line into it, or "
            "set DATASETS.CLASS_NAMES."
        )
    images = [image for place in places for image in _images_of(place)]
    problems = [problem for place in places for problem in _labels_without_image(place, images)]
    if not problems:  # a misplaced label is the likelier mistake
        _require_some_labels(path, images)
    dicts = [
        {**_read_image(image, names, problems), "image_id": number}
        for number, image in enumerate(images, start=1)
    ]
    require_no_problems(path, problems)
    return LoadedDataset(dicts, names, {i: i for i in range(len(names))})


def label_path(image: Path) -> Path:
    """The label file of an image: the last folder "images" of its path becomes "labels"."""
    parts = list(image.parts)
    folders = [i for i, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_data_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise AnnotationError(f"{path} must be a YAML file: {error}") from error
    if not isinstance(content, dict):
        raise AnnotationError(f"{path} must map keys such as names and train, it holds {content!r}")
    return content


def _names_of(content: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = content.get("names")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise AnnotationError(
            f"{path}: names must be a list of class names, or map 0, 1, 2 … to them, got {names!r}."
        )
    if content.get("nc", len(names)) != len(names):
        raise AnnotationError(
            f"{path}: nc must be the number of names, got {content['nc']} and {len(names)} names."
        )
    texts = tuple(str(name) for name in names)
    require_unique_names(texts, path)
    return texts


def _split_places(content: dict[str, Any], split: str, path: Path) -> list[Path]:
    """Folders of images, or text files that list images."""
    entries = content.get(split)
    if not entries:
        known = [key for key in ("train", "val", "test") if content.get(key)]
        raise DatasetNotFoundError(
            f"{path}: the split must be one of {', '.join(known) or 'none'}, got {split!r}."
        )
    root = path.parent / str(content.get("path") or ".")
    entries = entries if isinstance(entries, list) else [entries]
    places = []
    for entry in map(str, entries):
        # Exported files say "../train/images" where the folder lies beside them.
        candidates = [root / entry, path.parent / entry, path.parent / entry.removeprefix("../")]
        found = next((place for place in candidates if place.exists()), None)
        if found is None:
            raise DatasetNotFoundError(
                f"{path}: {split} must be a folder of images or a list of them, {candidates[0]} "
                "does not exist."
            )
        places.append(found)
    return places


def _split_folder(root: Path, split: str) -> Path:
    """The folder of images in a tree without ``data.yaml``."""
    candidates = (
        [root / "images" / split, root / split / "images", root / split]
        if split
        else [root / "images", root]
    )
    found = next((folder for folder in candidates if folder.is_dir()), None)
    if found is None:
        raise DatasetNotFoundError(
            f"{root} must hold the images of split {split!r}, none of "
            f"{', '.join(str(c) for c in candidates)} exists. It must look like this:\n{YOLO_TREE}"
        )
    return found


def _images_of(place: Path) -> list[Path]:
    if place.is_dir():
        return without_pyramids(find_photos(place), place)
    lines = [line.strip() for line in read_text(place).splitlines()]
    images = [place.parent / line for line in lines if line]
    require_no_problems(
        place,
        [f"{place}:{n}: {line} is no file" for n, line in enumerate(lines, start=1)
         if line and not (place.parent / line).is_file()],
    )  # fmt: skip
    return images


def _labels_without_image(place: Path, images: Sequence[Path]) -> list[str]:
    """Label files that no image belongs to: they would be left out without a word."""
    folder = label_path(place / "image").parent
    if not place.is_dir() or folder == place or not folder.is_dir():
        return []  # a list is a choice; and beside images lie other texts as well
    known = {label_path(image) for image in images}
    return [
        f"{path}: its image is not in {place}"
        for path in sorted(folder.rglob("*.txt"))
        if path not in known and path.name != CLASSES_FILE
    ]


def _require_some_labels(source: Path, images: Sequence[Path]) -> None:
    if not any(label_path(image).is_file() for image in images):
        where = f"such as {label_path(images[0])}" if images else "as there is no image"
        raise DatasetNotFoundError(
            f"{source} must have labels of some of its {len(images)} images, there are none, "
            f"{where}. It must look like this:\n{YOLO_TREE}"
        )


def _read_image(image: Path, names: tuple[str, ...], problems: list[str]) -> dict[str, Any]:
    """The dict of one image; mistakes go to ``problems``."""
    size = read_image_size(image)
    labels = label_path(image)
    lines = read_text(labels).splitlines() if labels.is_file() else []
    annotations = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        annotation = _read_line(line.split(), size, len(names))
        if isinstance(annotation, str):
            problems.append(f"{labels}:{number}: {annotation}, got {line.strip()[:80]!r}")
        else:
            annotations.append(annotation)
    return {
        "file_name": str(image), "height": size[0], "width": size[1], "annotations": annotations,
    }  # fmt: skip


def _read_line(
    words: list[str], image_size: tuple[int, int], num_classes: int
) -> dict[str, Any] | str:
    """The annotation of a line, or what is wrong with it."""
    if not (len(words) == 5 or (len(words) >= 7 and len(words) % 2)):
        return "a line must be a class and 4 numbers, or a class and 3 or more points"
    try:
        one_class, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return "the class must be an integer, and the rest numbers"
    if not 0 <= one_class < num_classes:
        return f"the class must be in 0 … {num_classes - 1}"
    if not all(math.isfinite(v) and -_TOLERANCE <= v <= 1 + _TOLERANCE for v in values):
        return "the numbers must be shares of the image's sides, in [0, 1]"
    x, y, x2, y2 = _corners(values)
    height, width = image_size
    box = clip_box((x * width, y * height, x2 * width, y2 * height), image_size)
    if box is None:
        return "the box must have an area inside the image"
    return make_annotation(box, one_class, is_ignore=False)


def _corners(values: list[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
