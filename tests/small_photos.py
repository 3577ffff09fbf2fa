"""Folders of small photos that a classifier can learn in a few steps: noise around a colour."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 30, 200), "green": (30, 200, 30), "red": (200, 30, 30)}


def write_photos(folder: Path, per_class: int, *, names: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """``folder/<colour>/<i>.png`` of 40 × 36 pixels; the file decides the noise."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            noise = np.random.default_rng((number, i)).normal(0, 30, (36, 40, 3))
            pixels = np.clip(noise + COLOURS[name], 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder
