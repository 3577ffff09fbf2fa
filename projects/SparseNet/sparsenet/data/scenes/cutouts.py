"""Objects cut out of annotated photos, and the split that keeps training and evaluation apart.

Masks come from COCO polygons or run lengths. Where an annotation has a box only, the object is cut
out with GrabCut and kept if the result is one compact piece that fills its box.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from sparsenet.data.scenes.scene import PERSON, VEHICLE
from sparsenet.errors import AnnotationError, ConfigError, DatasetError, DatasetNotFoundError

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Names in the annotation files -> our categories. PANDA counts two-wheelers as vehicles.
CATEGORY_OF_NAME = {
    "person": PERSON,
    "pedestrian": PERSON,
    "vehicle": VEHICLE,
    "car": VEHICLE,
    "van": VEHICLE,
    "truck": VEHICLE,
    "bus": VEHICLE,
    "minibus": VEHICLE,
    "motorcycle": VEHICLE,
}
_MIN_SIDE = 40  # smaller cut-outs have no detail
_BORDER = 2  # an object nearer than this to the border of its photo is truncated
# Standing people are at least this much taller than wide; sitting and cut-off ones are not.
_PERSON_ASPECT = (0.2, 0.52)
# Share of the box that a whole object covers. Below it, something stands before the object.
_MIN_FILL = {PERSON: 0.35, VEHICLE: 0.42}
# Share of the convex hull. Bites taken out by an occluder make a mask less convex.
_MIN_SOLIDITY = {PERSON: 0.6, VEHICLE: 0.8}
_MIN_BOX_COVER = 0.85  # of each side of the box, by a GrabCut mask
# A person cut off by a table or by the frame ends in a wide edge, a whole one in feet: the width of
# the lowest twentieth, as a share of the greatest width.
_MAX_FOOT_WIDTH = 0.6
_MIN_CONTRAST = 12.0  # standard deviation of the grey levels: less is a blank surface


@dataclass(frozen=True)
class Cutout:
    """One object with its mask.

    Args:
        category_id: ``PERSON`` or ``VEHICLE``.
        rgba: The object, uint8 RGBA; alpha is soft at the edge.
        source: ``file: annotation id``, for the record.
    """

    category_id: int
    rgba: np.ndarray
    source: str

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.rgba.shape[1] / self.rgba.shape[0]


def split_members(
    members: Sequence[T], part: str, train_share: float, keys: Sequence[Hashable] | None = None
) -> list[T]:
    """The members of one part of a split that depends on their names only.

    Names are ordered by their SHA-1; the first ``train_share`` of them (rounded down, at least one)
    are training, the others evaluation. The order and the number of copies of a name do not matter.

    Args:
        members: Anything; divided by key.
        part: ``"train"``, ``"eval"`` or ``"all"``.
        train_share: In (0, 1).
        keys: One name per member; members with the same name stay together. None: the members.

    Raises:
        ConfigError: If the arguments are out of range.
        DatasetError: If there are too few names to divide.
    """
    if part not in ("train", "eval", "all") or not 0 < train_share < 1:
        raise ConfigError(
            "A split is train, eval or all with a training share inside (0, 1), "
            f"got {part!r} and {train_share}."
        )
    names = list(members if keys is None else keys)
    if part == "all":
        return list(members)
    order = sorted(set(names), key=lambda n: hashlib.sha1(str(n).encode()).hexdigest())
    if len(order) < 2:
        raise DatasetError(
            f"At least two sources are needed to divide training from evaluation, got {order}. "
            "Add sources or use --split all."
        )
    count = max(1, int(len(order) * train_share))
    chosen = set(order[:count] if part == "train" else order[count:])
    return [m for m, n in zip(members, names, strict=True) if n in chosen]


def load_json(path: Path) -> dict[str, Any]:
    """A COCO file with images, annotations and categories.

    Raises:
        DatasetNotFoundError: If it does not exist.
        AnnotationError: If it is not COCO json.
    """
    if not path.is_file():
        raise DatasetNotFoundError(f"A COCO json file must exist at {path}. Check the path.")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise AnnotationError(f"{path} must be a COCO json file: {error}.") from error
    missing = {"images", "annotations", "categories"} - set(
        content if isinstance(content, dict) else ()
    )
    if missing:
        raise AnnotationError(f"{path} must be a COCO json file; it lacks {sorted(missing)}.")
    return content


def load_cutouts(
    paths: Sequence[Path],
    *,
    part: str = "all",
    train_share: float = 0.7,
    same_source: Sequence[str] = (),
    quiet: bool = False,
) -> list[Cutout]:
    """All whole, large enough objects of several COCO files.

    Args:
        paths: COCO json files; photos lie beside them or in a folder ``images`` beside them.
        part: ``"train"``, ``"eval"`` or ``"all"``: which photos to use. Those with vehicles and
            those without are divided separately, so that both parts have some of each.
        train_share: Share of the photos that belongs to training.
        same_source: File-name prefixes; photos with the same prefix (frames of one video) are
            divided as one.
        quiet: No progress bar.

    Raises:
        DatasetError: If no object passes.
    """
    found: list[Cutout] = []
    for path in paths:
        content = load_json(path)
        names = {c["id"]: str(c["name"]).lower() for c in content["categories"]}
        by_image = defaultdict(list)
        for annotation in content["annotations"]:
            if CATEGORY_OF_NAME.get(names.get(annotation["category_id"], "")):
                by_image[annotation["image_id"]].append(annotation)
        images = [i for i in content["images"] if i["id"] in by_image]
        chosen = _split_images(images, by_image, names, (part, train_share), same_source)
        for image in tqdm(chosen, desc=f"cut out of {path.name}", leave=False, disable=quiet):
            photo = _read_photo(path, image["file_name"])
            for annotation in by_image[image["id"]]:
                category = CATEGORY_OF_NAME[names[annotation["category_id"]]]
                rgba = _cut(photo, annotation, category, path)
                if rgba is not None:
                    source = f"{image['file_name']}: {annotation['id']}"
                    found.append(Cutout(category, rgba, source))
    if not found:
        raise DatasetError(
            f"At least one whole object of {_MIN_SIDE} px or more is needed in "
            f"{[str(p) for p in paths]} ({part}); none passed. Add photos."
        )
    return found


def _split_images(
    images: Sequence[dict[str, Any]],
    by_image: dict[Any, list[dict[str, Any]]],
    names: dict[Any, str],
    split: tuple[str, float],
    same_source: Sequence[str],
) -> list[dict[str, Any]]:
    """The photos of one part, those with and those without vehicles divided separately."""
    part, share = split
    sources = [_source_of(i["file_name"], same_source) for i in images]
    with_vehicles = {
        source
        for image, source in zip(images, sources, strict=True)
        if any(CATEGORY_OF_NAME[names[a["category_id"]]] == VEHICLE for a in by_image[image["id"]])
    }
    chosen: list[dict[str, Any]] = []
    for has_vehicles in (True, False):
        group = [
            (i, s)
            for i, s in zip(images, sources, strict=True)
            if (s in with_vehicles) == has_vehicles
        ]
        if group:
            chosen += split_members([g[0] for g in group], part, share, [g[1] for g in group])
    return chosen


def _source_of(file_name: str, same_source: Sequence[str]) -> str:
    stem = Path(file_name).stem
    matching = [prefix for prefix in same_source if stem.startswith(prefix)]
    return max(matching, key=len) if matching else stem


def _read_photo(json_path: Path, file_name: str) -> np.ndarray:
    for folder in (json_path.parent, json_path.parent / "images"):
        if (folder / file_name).is_file():
            photo = cv2.imread(str(folder / file_name), cv2.IMREAD_COLOR)
            if photo is not None:
                return cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
    raise DatasetNotFoundError(
        f"{json_path} names {file_name}, which must be a readable photo in {json_path.parent} or "
        f"in {json_path.parent / 'images'}. Put it there or remove its entry."
    )


def _cut(
    photo: np.ndarray, annotation: dict[str, Any], category: int, path: Path
) -> np.ndarray | None:
    """The object as RGBA, or None where it is not whole or too small."""
    if annotation.get("iscrowd"):
        return None
    height, width = photo.shape[:2]
    try:
        x, y, w, h = (float(v) for v in annotation["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise AnnotationError(
            f"{path}, annotation {annotation.get('id')}: bbox must be [x, y, width, height], "
            f"got {annotation.get('bbox')!r}."
        ) from error
    whole = min(x, y, width - x - w, height - y - h) > _BORDER
    if not whole or max(w, h) < _MIN_SIDE:
        return None
    if category == PERSON and not _PERSON_ASPECT[0] <= w / h <= _PERSON_ASPECT[1]:
        return None
    if annotation.get("segmentation"):
        mask = _annotated_mask(annotation, (height, width), path)
    else:
        mask = _grabcut_mask(photo, (int(x), int(y), int(w), int(h)))
    if mask is None or not _is_whole(mask, w * h, category):
        return None
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    return _soft_sprite(photo, mask) if grey[mask > 0].std() >= _MIN_CONTRAST else None


def _annotated_mask(
    annotation: dict[str, Any], size: tuple[int, int], path: Path
) -> np.ndarray | None:
    """The mask of one piece; None for objects that something cuts into several."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list) and len(segmentation) > 1:
        return None
    try:
        if isinstance(segmentation, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
        elif isinstance(segmentation["counts"], list):
            rle = coco_mask.frPyObjects(segmentation, *size)
        else:
            rle = segmentation
        return np.ascontiguousarray(coco_mask.decode(rle))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise AnnotationError(
            f"{path}, annotation {annotation.get('id')}: segmentation must be polygons or run "
            f"lengths: {error}."
        ) from error


def _grabcut_mask(photo: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray | None:
    x, y, w, h = box
    margin = max(6, int(0.15 * max(w, h)))
    x0, y0 = max(0, x - margin), max(0, y - margin)
    part = np.ascontiguousarray(photo[y0 : y + h + margin, x0 : x + w + margin])
    labels = np.zeros(part.shape[:2], np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # GrabCut starts from k-means with OpenCV's global generator
    cv2.grabCut(part, labels, (x - x0, y - y0, w, h), *models, 3, cv2.GC_INIT_WITH_RECT)
    found = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    solid = cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(solid)
    if count < 2:
        return None
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    cover = stats[largest, cv2.CC_STAT_WIDTH] / w, stats[largest, cv2.CC_STAT_HEIGHT] / h
    if min(cover) < _MIN_BOX_COVER:
        return None
    mask = np.zeros(photo.shape[:2], np.uint8)
    piece = (pieces == largest).astype(np.uint8)
    # Windscreens and dark roofs look like road: close what the body surrounds.
    closed = cv2.morphologyEx(piece, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    mask[y0 : y0 + closed.shape[0], x0 : x0 + closed.shape[1]] = closed
    return mask


def _is_whole(mask: np.ndarray, box_area: float, category: int) -> bool:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return False
    contour = max(contours, key=cv2.contourArea)
    area = cv2.contourArea(contour)
    hull = cv2.contourArea(cv2.convexHull(contour))
    fill, solidity = area / max(1.0, box_area), area / max(1.0, hull)
    if category == PERSON and not _stands_on_feet(mask):
        return False
    return fill >= _MIN_FILL[category] and solidity >= _MIN_SOLIDITY[category]


def _stands_on_feet(mask: np.ndarray) -> bool:
    widths = mask.sum(1)
    rows = widths[np.flatnonzero(widths)[0] : np.flatnonzero(widths)[-1] + 1]
    lowest = rows[-max(1, len(rows) // 20) :]
    return bool(lowest.mean() <= _MAX_FOOT_WIDTH * rows.max())


def _soft_sprite(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RGBA crop with an alpha that is one pixel tighter than the mask and soft at the edge."""
    padded = cv2.erode(mask * 255, np.ones((3, 3), np.uint8))
    alpha = cv2.GaussianBlur(padded, (3, 3), 0)
    ys, xs = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    if len(ys) == 0:
        return np.zeros((1, 1, 4), np.uint8)
    area = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    return np.dstack([photo[area], alpha[area]])
