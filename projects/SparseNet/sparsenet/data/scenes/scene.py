"""Scenes with exact truth: sprites painted far to near on a ground, one row band at a time.

A scene is a ground and a list of :class:`Placement`. :class:`SceneComposer` paints them band by
band, so a scene of 400 megapixels needs the memory of a few bands, and it counts for each object
which of its pixels stay visible. Where the sprites come from (drawn or cut out of photos) is not
known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sparsenet.errors import ConfigError

CATEGORIES = ({"id": 1, "name": "person"}, {"id": 2, "name": "vehicle"})
PERSON, VEHICLE = 1, 2
SCENERY = 0  # painted and occluding, but no object: trees, lamp posts, shadows

# A pixel belongs to the nearest sprite that covers more than half of it.
_SOLID_ALPHA = 128
# Owner maps are uint16 to halve their memory; 0 is the ground.
_MAX_PLACEMENTS = 65_535


class Ground(Protocol):
    """What the sprites stand on."""

    size: tuple[int, int]

    def band(self, top: int, bottom: int) -> np.ndarray:
        """Rows ``[top, bottom)`` as a new uint8 RGB array; called from top to bottom, once each."""
        ...


@dataclass(frozen=True)
class Placement:
    """One sprite in a scene.

    Args:
        category_id: ``PERSON``, ``VEHICLE`` or ``SCENERY``.
        x: Left column in full-image pixels; may be outside the image.
        y: Top row in full-image pixels; may be outside the image.
        size: ``(height, width)`` of the sprite in full-image pixels.
        depth: Sorting key; smaller is farther away and is painted first.
        render: Returns the sprite, uint8 RGBA of exactly ``size``, the same on every call.
    """

    category_id: int
    x: int
    y: int
    size: tuple[int, int]
    depth: float
    render: Callable[[], np.ndarray]

    @property
    def bottom(self) -> int:
        """First row below the sprite."""
        return self.y + self.size[0]


@dataclass(frozen=True)
class TruthOptions:
    """Which objects are truth and which are ignored.

    Args:
        min_visible: Objects with a smaller visible share become ignore (``iscrowd`` 1).
        min_side: Objects whose visible box has a longer side below this many pixels become ignore.
    """

    min_visible: float = 0.35
    min_side: int = 12


class SceneComposer:
    """Paints placements on a ground and measures what stays visible.

    Args:
        ground: Supplies the background and the size of the scene.
        placements: In any order; they are painted by ``depth``, equal depths in the given order.
        band_height: Rows per band. Memory is about 15 bytes per pixel of a band, plus the sprites
            that touch it.

    Raises:
        ConfigError: If there are more placements than the owner map can tell apart.
    """

    def __init__(
        self, ground: Ground, placements: Sequence[Placement], *, band_height: int = 1024
    ) -> None:
        if len(placements) >= _MAX_PLACEMENTS:
            raise ConfigError(
                f"A scene holds at most {_MAX_PLACEMENTS - 1} sprites, got {len(placements)}. "
                "Lower the density."
            )
        self.size = ground.size
        self.placements = sorted(placements, key=lambda p: p.depth)
        self._ground = ground
        self._band_height = band_height
        self._sprites: dict[int, np.ndarray] = {}
        count = len(self.placements)
        self._solid = np.zeros(count, np.int64)  # pixels of the whole sprite, hidden ones included
        self._visible = np.zeros(count, np.int64)
        self._extent = np.tile(np.array([2**31, 2**31, -1, -1], np.int64), (count, 1))

    def bands(self) -> Iterator[np.ndarray]:
        """The scene from top to bottom, one uint8 RGB array of full width at a time."""
        height, width = self.size
        for top in range(0, height, self._band_height):
            bottom = min(height, top + self._band_height)
            band = self._ground.band(top, bottom)
            owner = np.zeros((bottom - top, width), np.uint16)
            touched = [i for i, p in enumerate(self.placements) if p.y < bottom and p.bottom > top]
            for index in touched:
                self._paint(index, band, owner, top)
            self._measure(touched, owner, top)
            yield band

    def truth(self, options: TruthOptions | None = None) -> list[dict[str, Any]]:
        """COCO annotations (without ids) of all objects of which something is visible.

        Boxes are the extent of the visible pixels. Only complete after :meth:`bands` is exhausted.
        """
        options = options or TruthOptions()
        found = []
        for index, placement in enumerate(self.placements):
            if placement.category_id == SCENERY or self._visible[index] == 0:
                continue
            x, y, x2, y2 = (int(v) for v in self._extent[index])
            share = self._visible[index] / max(1, self._solid[index])
            ignore = share < options.min_visible or max(x2 - x, y2 - y) < options.min_side
            found.append(
                {
                    "category_id": placement.category_id,
                    "bbox": [x, y, x2 - x, y2 - y],
                    "area": int(self._visible[index]),
                    "iscrowd": int(ignore),
                    "visibility": round(float(share), 4),
                }
            )
        return found

    def _sprite(self, index: int, last_row: int) -> np.ndarray:
        """The rendered sprite; kept only while later bands still need it."""
        placement = self.placements[index]
        sprite = self._sprites.pop(index, None)
        if sprite is None:
            sprite = placement.render()
            if sprite.shape != (*placement.size, 4):
                raise ValueError(f"sprite {sprite.shape} is not of its size {placement.size}")
            self._solid[index] = np.count_nonzero(sprite[..., 3] > _SOLID_ALPHA)
        if placement.bottom > last_row:
            self._sprites[index] = sprite
        return sprite

    def _paint(self, index: int, band: np.ndarray, owner: np.ndarray, top: int) -> None:
        placement = self.placements[index]
        rows, width = owner.shape
        sprite = self._sprite(index, top + rows)
        y, x = placement.y - top, placement.x
        y1, x1 = max(0, y), max(0, x)
        y2, x2 = min(rows, y + placement.size[0]), min(width, x + placement.size[1])
        if y2 <= y1 or x2 <= x1:
            return
        part = sprite[y1 - y : y2 - y, x1 - x : x2 - x]
        blend(band[y1:y2, x1:x2], part)
        owner[y1:y2, x1:x2][part[..., 3] > _SOLID_ALPHA] = index + 1

    def _measure(self, touched: Sequence[int], owner: np.ndarray, top: int) -> None:
        """Adds the visible pixels of one band to counts and extents."""
        rows, width = owner.shape
        for index in touched:
            placement = self.placements[index]
            if placement.category_id == SCENERY:
                continue
            y1, x1 = max(0, placement.y - top), max(0, placement.x)
            y2, x2 = min(rows, placement.bottom - top), min(width, placement.x + placement.size[1])
            mine = owner[y1:y2, x1:x2] == index + 1
            ys, xs = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
            if len(ys) == 0:
                continue
            self._visible[index] += np.count_nonzero(mine)
            low = (x1 + xs[0], top + y1 + ys[0])
            high = (x1 + xs[-1] + 1, top + y1 + ys[-1] + 1)
            extent = self._extent[index]
            extent[:2] = np.minimum(extent[:2], low)
            extent[2:] = np.maximum(extent[2:], high)


def blend(target: np.ndarray, sprite: np.ndarray) -> None:
    """Paints an RGBA ``sprite`` over the RGB ``target`` of the same height and width, in place."""
    alpha = sprite[..., 3:].astype(np.uint16)
    mixed = target * (255 - alpha) + sprite[..., :3] * alpha
    target[...] = (mixed + 127) // 255


def contact_shadow(placement: Placement, strength: float, breadth: float = 1.5) -> Placement:
    """A soft dark ellipse under the feet of ``placement``; scenery that owns no pixel.

    Args:
        placement: The object that casts it.
        strength: Darkest opacity in [0, 0.5): below one half, so that it never hides anything.
        breadth: Width of the shadow in widths of the sprite.
    """
    height, width = placement.size
    size = (max(3, int(0.15 * min(height, breadth * width))), max(3, int(breadth * width)))
    y = placement.bottom - int(size[0] * 0.6)
    x = placement.x + (width - size[1]) // 2

    def render() -> np.ndarray:
        ys = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
        xs = np.linspace(-1, 1, size[1], dtype=np.float32)[None]
        fade = np.clip(1 - (ys**2 + xs**2), 0, 1)
        sprite = np.zeros((*size, 4), np.uint8)
        sprite[..., 3] = (fade * 255 * min(strength, 0.49)).astype(np.uint8)
        return sprite

    return Placement(SCENERY, x, y, size, placement.depth, render)
