"""A ground of any size from a few photos: feathered patches, one row of patches at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sparsenet.errors import DatasetNotFoundError, ImageReadError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
# How much of the slow changes of brightness and colour is taken out of a photo, so that patches of
# different places match, and how large "slow" is, as a share of the photo's longer side.
_HARMONY = 0.8
_SLOW = 1 / 12
_GAIN = (0.9, 1.7)  # brightness of a whole scene: overcast to sunny


def list_photos(folder: Path) -> list[Path]:
    """The photos in a folder, by name.

    Raises:
        DatasetNotFoundError: If there are none.
    """
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in _SUFFIXES)
    if not found:
        raise DatasetNotFoundError(
            f"The ground needs at least one photo ({', '.join(sorted(_SUFFIXES))}) in {folder}; "
            "there is none. Check the folder."
        )
    return found


class PhotoGround:
    """Random crops of photos, mirrored and turned, blended where they meet.

    Args:
        photos: Paths of photos; kept in memory.
        size: ``(height, width)`` of the ground in pixels.
        seed: Chooses the crops.
        patch: Side of a patch without its overlap, in pixels.
        overlap: Width of the blended margin, in pixels.
        zoom: Photo pixels per ground pixel: the photos are reduced by it first.
    """

    def __init__(
        self,
        photos: Sequence[Path],
        size: tuple[int, int],
        *,
        seed: int,
        patch: int = 1536,
        overlap: int = 256,
        zoom: float = 1.0,
    ) -> None:
        self.size = size
        self._seed = seed
        self._patch, self._overlap = patch, overlap
        loaded = [_load(p, zoom) for p in photos]
        rng = np.random.default_rng(seed)
        gain = rng.uniform(*_GAIN) * rng.uniform(0.95, 1.05, 3)
        mean = np.mean([p[::8, ::8].reshape(-1, 3).mean(0) for p in loaded], axis=0)
        self._photos = [_flatten(p, mean, gain, patch + overlap) for p in loaded]
        ramp = (np.arange(overlap, dtype=np.float32) + 0.5) / overlap
        self._ramp = ramp * ramp * (3 - 2 * ramp)  # smooth at both ends: no visible crease
        self._rows: dict[int, np.ndarray] = {}

    def band(self, top: int, bottom: int) -> np.ndarray:
        """Rows ``[top, bottom)`` as a new uint8 RGB array."""
        parts = []
        for row in range(top // self._patch, (bottom - 1) // self._patch + 1):
            strip = self._strip(row)
            start = row * self._patch
            parts.append(strip[max(0, top - start) : min(self._patch, bottom - start)])
        return np.concatenate(parts)

    def _strip(self, row: int) -> np.ndarray:
        """One row of patches, blended with the tail of the row above."""
        for old in [r for r in self._rows if r < row - 1]:
            del self._rows[old]
        strip = self._raw_strip(row)
        out = strip[: self._patch].copy()
        if row > 0:
            tail = self._raw_strip(row - 1)[self._patch :]
            ramp = self._ramp[:, None, None]
            out[: self._overlap] = _mix(tail, out[: self._overlap], ramp)
        return out

    def _raw_strip(self, row: int) -> np.ndarray:
        if row in self._rows:
            return self._rows[row]
        width, side = self.size[1], self._patch + self._overlap
        strip = np.empty((side, width, 3), np.uint8)
        for column, x in enumerate(range(0, width, self._patch)):
            piece = self._crop(row, column, side)[:, : width - x]
            shared = min(self._overlap, piece.shape[1]) if column else 0
            if shared:
                ramp = self._ramp[None, :shared, None]
                piece[:, :shared] = _mix(strip[:, x : x + shared], piece[:, :shared], ramp)
            strip[:, x : x + piece.shape[1]] = piece
        self._rows[row] = strip
        return strip

    def _crop(self, row: int, column: int, side: int) -> np.ndarray:
        """One patch, a function of the seed and its place only."""
        rng = np.random.default_rng([self._seed, row, column])
        photo = self._photos[rng.integers(len(self._photos))]
        y = rng.integers(photo.shape[0] - side + 1)
        x = rng.integers(photo.shape[1] - side + 1)
        piece = photo[y : y + side, x : x + side]
        piece = np.rot90(piece, int(rng.integers(4)))
        piece = piece[:, ::-1] if rng.random() < 0.5 else piece
        gain = rng.uniform(0.96, 1.04)
        return cv2.convertScaleAbs(np.ascontiguousarray(piece), alpha=gain)


def _load(path: Path, zoom: float) -> np.ndarray:
    photo = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if photo is None:
        raise ImageReadError(f"{path} must be a readable photo; OpenCV could not decode it.")
    photo = cv2.cvtColor(photo, cv2.COLOR_BGR2RGB)
    if zoom > 1:
        photo = cv2.resize(photo, None, fx=1 / zoom, fy=1 / zoom, interpolation=cv2.INTER_AREA)
    return photo


def _flatten(photo: np.ndarray, mean: np.ndarray, gain: np.ndarray, least: int) -> np.ndarray:
    """Takes slow changes out, applies the scene's light, and mirrors up to ``least`` pixels."""
    height, width = photo.shape[:2]
    cells = (
        max(2, round(width / max(height, width) / _SLOW)),
        max(2, round(height / max(height, width) / _SLOW)),
    )
    slow = cv2.resize(photo, cells, interpolation=cv2.INTER_AREA).astype(np.float32)
    shift = cv2.resize(_HARMONY * (mean - slow).astype(np.float32), (width, height))
    for top in range(0, height, 256):  # in rows, to need no float copy of the photo
        rows = np.s_[top : top + 256]
        photo[rows] = np.clip((photo[rows] + shift[rows]) * gain, 0, 255)
    # Small photos are continued by mirroring, which has no seam.
    return cv2.copyMakeBorder(
        photo, 0, max(0, least - height), 0, max(0, least - width), cv2.BORDER_REFLECT
    )


def _mix(old: np.ndarray, new: np.ndarray, ramp: np.ndarray) -> np.ndarray:
    """``old`` where ``ramp`` is 0, ``new`` where it is 1."""
    return np.rint(old * (1 - ramp) + new * ramp).astype(np.uint8)
