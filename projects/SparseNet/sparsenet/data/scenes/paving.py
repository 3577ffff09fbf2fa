"""The ground of drawn scenes: paving, lawns, gravel and roads from small repeated textures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_TEXTURE = (
    768  # side of a texture in pixels; mirrored, so it repeats without a seam after twice that
)
_CELL = 64  # ground pixels per cell of the coarse maps
_AREA_LEVEL = 158  # of 255: where a hilly map exceeds it, its texture lies on the paving
_WHITE = (214, 212, 204)


@dataclass(frozen=True)
class Road:
    """A horizontal road.

    Args:
        top: First row, in pixels.
        breadth: Rows, in pixels.
        crossing: Centre column of a pedestrian crossing, in pixels; None for none.
    """

    top: float
    breadth: float
    crossing: float | None


class DrawnGround:
    """Textured areas with roads and their markings.

    Args:
        size: ``(height, width)`` in pixels.
        roads: Roads, painted over the areas.
        seed: Chooses textures, areas and light.
    """

    def __init__(self, size: tuple[int, int], roads: Sequence[Road], *, seed: int) -> None:
        self.size = size
        self._roads = roads
        rng = np.random.default_rng([seed, 4])
        self._textures = [_paving(rng), _grass(rng), _gravel(rng), _grass(rng)]
        self._asphalt = _asphalt(rng)
        self._fields = [_soft_map(size, cells, rng) for cells in (9, 13, 17)]
        self._light = _soft_map(size, 24, rng)

    def band(self, top: int, bottom: int) -> np.ndarray:
        """Rows ``[top, bottom)`` as a new uint8 RGB array."""
        width = self.size[1]
        band = np.empty((bottom - top, width, 3), np.uint8)
        fields = [self._rows(f, top, bottom) for f in self._fields]
        rows = [t[np.arange(top, bottom) % len(t)] for t in self._textures]
        # Blocks of one texture's width stay in the processor's cache.
        for x in range(0, width, 2 * _TEXTURE):
            columns = np.s_[:, x : x + 2 * _TEXTURE]
            block = band[columns]
            block[...] = rows[0][:, : block.shape[1]]
            for texture, field in zip(rows[1:], fields, strict=True):
                mask = np.where(field[columns] > _AREA_LEVEL, np.uint8(255), np.uint8(0))
                if mask.any():
                    cv2.copyTo(texture[:, : block.shape[1]], mask, block)
        for road in self._roads:
            self._pave(band, road, top)
        self._light_up(band, top, bottom)
        return band

    def _light_up(self, band: np.ndarray, top: int, bottom: int) -> None:
        """Slow changes of brightness, in place."""
        light = cv2.convertScaleAbs(self._rows(self._light, top, bottom), alpha=0.26, beta=95)
        for x in range(0, band.shape[1], 2 * _TEXTURE):
            columns = np.s_[:, x : x + 2 * _TEXTURE]
            factor = cv2.merge([np.ascontiguousarray(light[columns])] * 3)
            band[columns] = cv2.multiply(band[columns], factor, scale=1 / 128)

    def _rows(self, field: np.ndarray, top: int, bottom: int) -> np.ndarray:
        """The part of a coarse map that belongs to some rows, at full resolution."""
        # One cell more on both sides: OpenCV repeats the border value over half a cell.
        first, last = top // _CELL, (bottom - 1) // _CELL + 2
        part = field[first : last + 1]
        wide = cv2.resize(part, (self.size[1], len(part)), interpolation=cv2.INTER_LINEAR)
        tall = cv2.resize(wide, (self.size[1], len(part) * _CELL), interpolation=cv2.INTER_LINEAR)
        start = top - first * _CELL + _CELL
        return tall[start : start + bottom - top]

    def _pave(self, band: np.ndarray, road: Road, top: int) -> None:
        rows, width = band.shape[:2]
        first, last = round(road.top) - top, round(road.top + road.breadth) - top
        y1, y2 = max(0, first), min(rows, last)
        if y2 <= y1:
            return
        band[y1:y2] = _tiled(self._asphalt, top + y1, top + y2, width)
        line = max(2, round(0.018 * road.breadth))
        kerb = max(2, round(0.03 * road.breadth))
        for y in (first, last - kerb):
            _stain(band, (0, y, width, y + kerb), (150, 148, 142), 0.8)
        middle = (first + last) // 2
        dash = max(8, round(0.5 * road.breadth))
        for x in range(0, width, 2 * dash):
            _stain(band, (x, middle, x + dash, middle + line), _WHITE, 0.75)
        if road.crossing is not None:
            step = max(4, round(0.09 * road.breadth))
            half = round(0.55 * road.breadth)
            left, right = round(road.crossing) - half, round(road.crossing) + half
            for y in range(first + kerb, last - kerb, 2 * step):
                _stain(band, (left, y, right, y + step), _WHITE, 0.8)


def _stain(
    band: np.ndarray, box: tuple[int, int, int, int], colour: tuple[int, int, int], share: float
) -> None:
    """Paints a rectangle through which the texture still shows."""
    x1, y1, x2, y2 = box
    x1, y1 = max(0, x1), max(0, y1)
    part = band[y1 : max(y1, y2), x1 : max(x1, x2)]
    if part.size:
        paint = np.broadcast_to(np.array(colour, np.uint8), part.shape)
        part[...] = cv2.addWeighted(part, 1 - share, np.ascontiguousarray(paint), share, 0)


def _tiled(texture: np.ndarray, top: int, bottom: int, width: int) -> np.ndarray:
    """Rows of an endless repetition of a texture."""
    side = texture.shape[0]
    rows = texture[np.arange(top, bottom) % side]
    out = np.empty((bottom - top, width, 3), np.uint8)
    for x in range(0, width, side):
        out[:, x : x + side] = rows[:, : width - x]
    return out


def _soft_map(size: tuple[int, int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """A coarse uint8 map of smooth hills: a value per ``_CELL`` pixels, a few beyond the end."""
    shape = size[0] // _CELL + 4, size[1] // _CELL + 4
    few = max(2, round(cells * size[0] / size[1])) + 1, cells + 1
    hills = cv2.resize(
        rng.random(few).astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC
    )
    fine = rng.random(shape).astype(np.float32)
    hills = hills + 0.12 * (cv2.GaussianBlur(fine, (0, 0), 1) - 0.5)
    return np.clip(hills * 255, 0, 255).astype(np.uint8)


def _finish(texture: np.ndarray) -> np.ndarray:
    """Clips to bytes and mirrors both ways, so that the result repeats without seams."""
    texture = np.clip(texture, 0, 255).astype(np.uint8)
    texture = np.concatenate([texture, texture[:, ::-1]], 1)
    return np.ascontiguousarray(np.concatenate([texture, texture[::-1]], 0))


def _noise(rng: np.random.Generator, scales: Sequence[tuple[float, float]]) -> np.ndarray:
    """A sum of noises: (size of the grains in pixels, standard deviation)."""
    total = np.zeros((_TEXTURE, _TEXTURE), np.float32)
    for radius, strength in scales:
        # Wide noise is drawn coarsely and enlarged: a wide filter costs a hundred times as much.
        side = round(_TEXTURE / max(1.0, radius))
        white = rng.standard_normal((side, side)).astype(np.float32)
        layer = cv2.resize(white, (_TEXTURE, _TEXTURE), interpolation=cv2.INTER_CUBIC)
        total += np.float32(strength / max(1e-6, float(np.std(layer)))) * np.asarray(layer)
    return total


def _tinted(grey: np.ndarray, colour: Sequence[float]) -> np.ndarray:
    return np.asarray(colour, np.float32) + grey[..., None]


def _asphalt(rng: np.random.Generator) -> np.ndarray:
    tone = rng.uniform(70, 112)
    grey = _noise(rng, ((0, 7), (1.2, 6), (40, 5)))
    for _ in range(5):  # cracks
        walk = np.cumsum(rng.normal(0, 14, (12, 2)), 0) + rng.uniform(0, _TEXTURE, 2)
        cv2.polylines(grey, [walk.astype(np.int32)], False, -32.0, 1)
    return _finish(_tinted(grey, (tone, tone, tone + 3)))


def _grass(rng: np.random.Generator) -> np.ndarray:
    grey = _noise(rng, ((0, 9), (1, 9), (3, 7), (30, 8)))
    colour = (rng.uniform(72, 118), rng.uniform(98, 126), rng.uniform(46, 66))
    return _finish(_tinted(grey, colour) + _noise(rng, ((12, 5),))[..., None] * (1.0, 0.2, 0.1))


def _gravel(rng: np.random.Generator) -> np.ndarray:
    grey = _noise(rng, ((0, 10), (2, 12), (20, 6)))
    tone = rng.uniform(118, 150)
    return _finish(_tinted(grey, (tone + 10, tone, tone - 18)))


def _paving(rng: np.random.Generator) -> np.ndarray:
    side = int(rng.choice([48, 64, 96]))
    count = _TEXTURE // side
    slabs = np.kron(rng.normal(0, 7, (count, count)), np.ones((side, side))).astype(np.float32)
    grey = _noise(rng, ((0, 5), (1.5, 4), (50, 5))) + slabs
    for k in range(count):
        grey[:, k * side : k * side + 2] -= 26
        shift = side // 2 if rng.random() < 0.3 else 0
        grey[(k * side + shift) % _TEXTURE, :] -= 26
    tone = rng.uniform(120, 168)
    return _finish(_tinted(grey, (tone + rng.uniform(0, 16), tone, tone - rng.uniform(0, 14))))
