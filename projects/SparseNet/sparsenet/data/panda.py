"""PANDA-Image: reads the official annotation files and divides them by scene.

Wang et al., "PANDA: A Gigapixel-level Human-centric Video Dataset", CVPR 2020. The files hold one
entry per image with rectangles in shares of the image's width and height. A person has three
rectangles (visible body, full body, head), everything else one. Regions that are no single object
(crowds, ignored regions, pictures of people, dense vehicles) become ignore boxes (``iscrowd`` 1):
pycocotools ignores nothing but these, whatever the key ``ignore`` says.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsenet.errors import AnnotationError, ConfigError, DatasetError, DatasetNotFoundError

logger = logging.getLogger(__name__)

PANDA_TREE = """\
panda/
  image_annos/                      the official annotation files
    person_bbox_train.json          (or human_bbox_train.json)
    vehicle_bbox_train.json
  image_train/                      the official images
    01_University_Canteen/
      IMG_01_01.jpg
      ...
    02_Xili_Crossroad/
    ...
    pyramids/                       optional, written by: datasets/prepare_panda.py --pyramids
      01_University_Canteen/
        IMG_01_01.tif
        ...
  annotations/                      written by: datasets/prepare_panda.py
    panda_person_train.json
    panda_person_val.json
    panda_vehicle_train.json
    panda_vehicle_val.json
    panda_all_train.json
    panda_all_val.json
"""

PERSON_BOXES = ("full body", "visible body", "head")
# Three of the 13 labelled scenes, 23 %: near and far people, crowds and many vehicles.
DEFAULT_VAL_SCENES = ("04", "07", "12")
CATEGORIES = {"person": {"id": 1, "name": "person"}, "vehicle": {"id": 2, "name": "vehicle"}}

_FILE_NAMES = {
    "person": ("person_bbox_train.json", "human_bbox_train.json", "person_bbox.json"),
    "vehicle": ("vehicle_bbox_train.json", "vehicle_bbox.json"),
}
_ANNOTATION_FOLDERS = ("image_annos", "annotations", ".")
_ATTRIBUTES = ("pose", "riding type", "age")
# Vehicle categories that are regions or guesses, not one vehicle.
_VEHICLE_REGIONS = ("vehicles", "unsure", "ignore")


@dataclass(frozen=True)
class PandaObject:
    """One labelled object or region.

    Args:
        subject: ``"person"`` or ``"vehicle"``.
        bbox: ``(x, y, width, height)`` in full-image pixels, inside the image.
        is_ignore: A region without single objects.
        attributes: The official category and, for persons, pose, riding type and age.
    """

    subject: str
    bbox: tuple[float, float, float, float]
    is_ignore: bool
    attributes: dict[str, str]


@dataclass(frozen=True)
class PandaImage:
    """One image with what is labelled in it.

    Args:
        file_name: ``scene/IMG_xx_yy.jpg``, below ``image_train``.
        image_id: The official number.
        size: ``(height, width)`` in pixels.
        objects: Persons, vehicles or both.
        subjects: Which of the two were labelled, also where none is in the image.
    """

    file_name: str
    image_id: int
    size: tuple[int, int]
    objects: tuple[PandaObject, ...]
    subjects: tuple[str, ...]

    @property
    def scene(self) -> str:
        """PANDA's place, the unit of every split."""
        return Path(self.file_name).parent.name


def load_panda_annotations(root: str | Path, *, person_box: str = "full body") -> list[PandaImage]:
    """All labelled images of a PANDA folder, in the order of their names.

    Args:
        root: PANDA's folder; see ``PANDA_TREE``.
        person_box: Which of ``PERSON_BOXES`` stands for a person.

    Raises:
        DatasetNotFoundError: If neither annotation file is there; the message shows the tree.
        AnnotationError: If an entry is malformed; the message names file and entry.
        ConfigError: If ``person_box`` is unknown.
    """
    if person_box not in PERSON_BOXES:
        raise ConfigError(f"The person box must be one of {PERSON_BOXES}, got {person_box!r}.")
    files = {s: find_annotation_file(Path(root), s) for s in _FILE_NAMES}
    if not any(files.values()):
        raise DatasetNotFoundError(
            f"PANDA's annotation files were not found in {root}. Expected is:\n{PANDA_TREE}"
            "Register at https://www.gigavision.cn to download them."
        )
    merged: dict[str, PandaImage] = {}
    for subject, path in files.items():
        if path is None:
            logger.warning("%s has no %s file: only the other kind is read", root, subject)
            continue
        for image in _read_file(path, subject, person_box):
            merged[image.file_name] = _merge(merged.get(image.file_name), image, path)
    return [merged[name] for name in sorted(merged)]


def find_annotation_file(root: Path, subject: str) -> Path | None:
    """The official file of ``"person"`` or ``"vehicle"``, None where there is none."""
    candidates = (root / f / n for f in _ANNOTATION_FOLDERS for n in _FILE_NAMES[subject])
    return next((path for path in candidates if path.is_file()), None)


def split_by_scene(
    images: Sequence[PandaImage], val_scenes: Iterable[str]
) -> tuple[list[PandaImage], list[PandaImage]]:
    """Training and validation images; all images of a scene are on one side.

    Args:
        images: What :func:`load_panda_annotations` returned.
        val_scenes: Scene names, or their leading numbers (``"04"``); ``"all"`` puts every
            scene into validation, to test a trained model.

    Raises:
        ConfigError: If a scene does not exist.
    """
    wanted = tuple(val_scenes)
    scenes = sorted({i.scene for i in images})
    if wanted == ("all",):
        return [], list(images)
    chosen: set[str] = set()
    for name in wanted:
        found = [s for s in scenes if s == name or s.split("_")[0] == name]
        if not found:
            raise ConfigError(
                f"Validation scenes must be among {scenes} (or their numbers, or 'all'), "
                f"got {name!r}."
            )
        chosen.update(found)
    train = [i for i in images if i.scene not in chosen]
    return train, [i for i in images if i.scene in chosen]


def to_coco(images: Sequence[PandaImage], subjects: Sequence[str]) -> dict[str, Any]:
    """A COCO dictionary of the images in which all ``subjects`` were labelled.

    Args:
        images: What :func:`split_by_scene` returned.
        subjects: ``("person",)``, ``("vehicle",)`` or both. Ids stay 1 and 2 in all files.
    """
    used = [i for i in images if set(subjects) <= set(i.subjects)]
    if len(used) < len(images):
        logger.warning(
            "%d of %d images are left out: not labelled for %s",
            len(images) - len(used), len(images), " and ".join(subjects),
        )  # fmt: skip
    annotations: list[dict[str, Any]] = []
    for image in used:
        for item in image.objects:
            if item.subject not in subjects:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.image_id,
                    "category_id": CATEGORIES[item.subject]["id"],
                    "bbox": [round(v, 2) for v in item.bbox],
                    "area": round(item.bbox[2] * item.bbox[3], 2),
                    "iscrowd": int(item.is_ignore),
                    "attributes": item.attributes,
                }
            )
    records = [
        {"id": i.image_id, "file_name": i.file_name, "height": i.size[0], "width": i.size[1]}
        for i in used
    ]
    categories = [CATEGORIES[s] for s in subjects]
    return {"images": records, "annotations": annotations, "categories": categories}


def _merge(known: PandaImage | None, new: PandaImage, path: Path) -> PandaImage:
    if known is None:
        return new
    if known.size != new.size:
        raise DatasetError(
            f"{path}, {new.file_name}: the image size must equal that of the other annotation "
            f"file, got {new.size} and {known.size}. Take both files from the same release."
        )
    return replace(
        known, objects=known.objects + new.objects, subjects=known.subjects + new.subjects
    )


def _read_file(path: Path, subject: str, person_box: str) -> list[PandaImage]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise AnnotationError(f"{path} must be json: {error}. Download it again.") from error
    if not isinstance(content, dict):
        raise AnnotationError(
            f"{path} must hold one entry per image, got a {type(content).__name__}."
        )
    images = []
    for name, entry in content.items():
        try:
            images.append(_read_image(name, entry, subject, person_box))
        except (KeyError, TypeError, ValueError) as error:
            what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise AnnotationError(
                f"{path}, entry {name!r}: must have 'image id', 'image size' and 'objects list' as "
                f"PANDA's files do, but {what}. Download the file again or correct the entry."
            ) from error
    ids = [i.image_id for i in images]
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise AnnotationError(f"{path}: each image needs its own 'image id'; {twice} occurs twice.")
    return images


def _read_image(name: str, entry: dict[str, Any], subject: str, person_box: str) -> PandaImage:
    size = int(entry["image size"]["height"]), int(entry["image size"]["width"])
    if min(size) <= 0:
        raise ValueError(f"its size is {size}")
    if "/" not in name:
        raise ValueError("its name is not scene/IMG_xx_yy.jpg")
    objects = []
    for index, item in enumerate(entry["objects list"]):
        try:
            found = _read_object(item, size, subject, person_box)
        except (KeyError, TypeError, ValueError) as error:
            what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"in object {index} {what}") from error
        if found is None:
            logger.warning("%s, object %d: has no area inside the image; left out", name, index)
        else:
            objects.append(found)
    return PandaImage(name, int(entry["image id"]), size, tuple(objects), (subject,))


def _read_object(
    item: dict[str, Any], size: tuple[int, int], subject: str, person_box: str
) -> PandaObject | None:
    category = str(item["category"])
    if subject == "person":
        is_ignore = category != "person"
    else:
        is_ignore = category in _VEHICLE_REGIONS
    has_parts = subject == "person" and not is_ignore
    rectangle = item["rects"][person_box] if has_parts else item["rect"]
    bbox = _to_pixels(rectangle, size)
    if bbox is None:
        return None
    attributes = {"category": category}
    attributes.update({k: str(item[k]) for k in _ATTRIBUTES if k in item})
    return PandaObject(subject, bbox, is_ignore, attributes)


def _to_pixels(
    rectangle: dict[str, Any], size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """A normalised rectangle, cut at the image border, in pixels; None where nothing is left."""
    corners = [float(rectangle[c][a]) for c in ("tl", "br") for a in ("x", "y")]
    if not all(math.isfinite(v) for v in corners):
        raise ValueError(f"the rectangle {corners} is not finite")
    x1, y1, x2, y2 = corners
    if x2 < x1 or y2 < y1:
        raise ValueError(f"the rectangle's corners are exchanged: {corners}")
    x1, y1, x2, y2 = (min(1.0, max(0.0, v)) for v in corners)
    x, y = x1 * size[1], y1 * size[0]
    width, height = x2 * size[1] - x, y2 * size[0] - y
    return (x, y, width, height) if width > 0 and height > 0 else None
