"""Scenes of real cut-outs on real ground, placed by the boxes of a real PANDA image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sparsenet.data.scenes.cutouts import CATEGORY_OF_NAME, Cutout, load_json, split_members
from sparsenet.data.scenes.scene import PERSON, VEHICLE, Placement, contact_shadow
from sparsenet.errors import AnnotationError, ConfigError, DatasetError

_MAX_ENLARGEMENT = 3.0  # beyond it a cut-out is a blur that no camera would produce
_MAX_STRETCH = 1.15  # how far a cut-out's aspect may be bent towards that of its box
_CHOICES = 12  # cut-outs that fit a box about equally well; one of them is drawn


@dataclass(frozen=True)
class Layout:
    """The boxes of one image.

    Args:
        name: File name of the image that the boxes come from.
        size: ``(height, width)`` in pixels.
        boxes: ``(category_id, (x, y, width, height))`` in pixels, floats.
    """

    name: str
    size: tuple[int, int]
    boxes: tuple[tuple[int, tuple[float, float, float, float]], ...]

    def scaled(self, factor: float) -> Layout:
        """The layout with all sizes and places multiplied by ``factor``."""
        size = round(self.size[0] * factor), round(self.size[1] * factor)
        boxes = tuple(
            (c, (x * factor, y * factor, w * factor, h * factor)) for c, (x, y, w, h) in self.boxes
        )
        return Layout(self.name, size, boxes)


def scene_of(file_name: str) -> str:
    """PANDA's scene of an image: its folder, or the name without the frame number."""
    path = Path(file_name)
    return path.parent.name or path.stem.rpartition("_")[0] or path.stem


def load_layouts(path: Path, *, part: str = "all", train_share: float = 0.7) -> list[Layout]:
    """The layouts of all images of a COCO file that belong to one part.

    Args:
        path: COCO json with categories person and vehicle (or names that mean them).
        part: ``"train"``, ``"eval"`` or ``"all"``; all images of a scene are in one part.
        train_share: Share of the scenes that belongs to training.

    Raises:
        AnnotationError: If an annotation is malformed.
    """
    content = load_json(path)
    names = {c["id"]: str(c["name"]).lower() for c in content["categories"]}
    boxes: dict[Any, list] = defaultdict(list)
    for annotation in content["annotations"]:
        category = CATEGORY_OF_NAME.get(names.get(annotation["category_id"], ""))
        if category is None or annotation.get("iscrowd"):
            continue
        try:
            x, y, w, h = (float(v) for v in annotation["bbox"])
            if not (w > 0 and h > 0):
                raise ValueError("no area")
        except (KeyError, TypeError, ValueError) as error:
            raise AnnotationError(
                f"{path}, annotation {annotation.get('id')}: bbox must be [x, y, width, height] "
                f"with an area, got {annotation.get('bbox')!r}."
            ) from error
        boxes[annotation["image_id"]].append((category, (x, y, w, h)))
    images = sorted(content["images"], key=lambda i: str(i["file_name"]))
    keys = [scene_of(i["file_name"]) for i in images]
    return [
        Layout(i["file_name"], (int(i["height"]), int(i["width"])), tuple(boxes[i["id"]]))
        for i in split_members(images, part, train_share, keys)
    ]


def choose_layout(layouts: Sequence[Layout], wanted: str | None, index: int) -> Layout:
    """The layout named (file name, stem, or position), or the ``index``-th, counting round.

    Raises:
        ConfigError: If there is no such layout in this part of the split.
    """
    if wanted is None:
        return layouts[index % len(layouts)]
    for layout in layouts:
        if wanted in (layout.name, Path(layout.name).stem):
            return layout
    if wanted.isdigit() and int(wanted) < len(layouts):
        return layouts[int(wanted)]
    raise ConfigError(
        f"The layout must be one of {[x.name for x in layouts]} (this part of the split) or a "
        f"position below {len(layouts)}, got {wanted!r}."
    )


def place_cutouts(layout: Layout, cutouts: Sequence[Cutout], *, seed: int) -> list[Placement]:
    """One cut-out (and its shadow) for each box of the layout.

    Feet stand where the box ends. A box that asks for more than three times the pixels of every
    cut-out gets a smaller object at the same place.

    Raises:
        DatasetError: If the layout asks for a category that no cut-out has.
    """
    by_category = {c: [x for x in cutouts if x.category_id == c] for c in (PERSON, VEHICLE)}
    placements: list[Placement] = []
    for index, (category, box) in enumerate(layout.boxes):
        choices = by_category[category]
        if not choices:
            raise DatasetError(
                f"The layout {layout.name} has boxes of category {category}, but no cut-out is of "
                "it. Add a --cutouts file with such objects."
            )
        rng = np.random.default_rng([seed, 1, index])
        placement = _place(box, category, choices, rng)
        placements += [contact_shadow(placement, float(rng.uniform(0.2, 0.42))), placement]
    return placements


def _place(
    box: tuple[float, float, float, float],
    category: int,
    choices: Sequence[Cutout],
    rng: np.random.Generator,
) -> Placement:
    x, y, w, h = box
    cutout = _match(w, h, choices, rng)
    height, width = _fit(w, h, cutout)
    left = round(x + (w - width) / 2)
    top = round(y + h - height)
    look = _Look.draw(rng, category)

    def render() -> np.ndarray:
        return look.apply(resize_rgba(cutout.rgba, (height, width)))

    return Placement(category, left, top, (height, width), y + h, render)


def _match(w: float, h: float, choices: Sequence[Cutout], rng: np.random.Generator) -> Cutout:
    """One of the cut-outs that fit best by aspect and by the enlargement they would need."""
    log_aspect = np.log(w / h)
    costs = []
    for cutout in choices:
        need = np.sqrt(w * h / (cutout.rgba.shape[0] * cutout.rgba.shape[1]))
        costs.append(abs(np.log(cutout.aspect) - log_aspect) + 1.5 * max(0, np.log(need)))
    order = np.argsort(costs, kind="stable")[: min(_CHOICES, len(choices))]
    return choices[int(order[rng.integers(len(order))])]


def _fit(w: float, h: float, cutout: Cutout) -> tuple[int, int]:
    """``(height, width)`` of the sprite: the box's area, nearly the cut-out's own aspect."""
    stretch = np.clip((w / h) / cutout.aspect, 1 / _MAX_STRETCH, _MAX_STRETCH)
    aspect = cutout.aspect * stretch
    height = np.sqrt(w * h / aspect)
    # Never taller or wider than the box by more than a fifth: the layout's scale stays true.
    height = min(height, 1.2 * h, 1.2 * w / aspect, _MAX_ENLARGEMENT * cutout.rgba.shape[0])
    return max(2, round(height)), max(2, round(height * aspect))


def resize_rgba(rgba: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes with premultiplied alpha, so that hidden colours do not bleed into the edge."""
    height, width = size
    smaller = height * width < rgba.shape[0] * rgba.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    alpha = rgba[..., 3:].astype(np.float32) / 255
    mixed = np.concatenate([rgba[..., :3] * alpha, alpha * 255], axis=-1)
    mixed = np.clip(cv2.resize(mixed, (width, height), interpolation=method), 0, 255)
    solid = np.maximum(mixed[..., 3:], 1) / 255
    colours = np.clip(mixed[..., :3] / solid, 0, 255)
    return np.rint(np.concatenate([colours, mixed[..., 3:]], axis=-1)).astype(np.uint8)


@dataclass(frozen=True)
class _Look:
    """Light and colour of one object."""

    mirrored: bool
    gain: float
    contrast: float
    tint: tuple[float, float, float]
    hue: int

    @classmethod
    def draw(cls, rng: np.random.Generator, category: int) -> _Look:
        hue, warmth = int(rng.integers(-4, 5)), rng.uniform(-0.06, 0.06)
        tint = np.array([1 + warmth, 1, 1 - warmth])
        # Paint comes in every colour, skin does not. Photos show mostly white cars, which a hue
        # cannot change and a tint can.
        if category == VEHICLE:
            hue = int(rng.integers(180)) if rng.random() < 0.5 else 0
            tint = tint * rng.uniform(0.3, 1.1, 3) if rng.random() < 0.5 else tint
        return cls(
            bool(rng.random() < 0.5),
            float(rng.uniform(0.75, 1.2)),
            float(rng.uniform(0.85, 1.15)),
            (float(tint[0]), float(tint[1]), float(tint[2])),
            hue,
        )

    def apply(self, rgba: np.ndarray) -> np.ndarray:
        rgba = rgba[:, ::-1] if self.mirrored else rgba
        colours = np.ascontiguousarray(rgba[..., :3])
        if self.hue:
            hsv = cv2.cvtColor(colours, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0].astype(np.int16) + self.hue) % 180
            colours = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        levels = np.arange(256, dtype=np.float32)[:, None]
        table = ((levels - 118) * self.contrast + 118) * self.gain * np.array(self.tint)
        table = np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]
        return np.dstack([cv2.LUT(colours, table), rgba[..., 3]])
