"""Folders of small pictures in three styles that differ in colour and stroke."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sparsenet.modeling.timm_models import create_classifier

STYLES = ("blue_dots", "green_stripes", "red_blocks")
SIDE = 64


def paint(style: int, seed: int) -> np.ndarray:
    """(64, 64, 3) uint8."""
    rng = np.random.default_rng((style, seed))
    pixels = rng.integers(0, 40, (SIDE, SIDE, 3))
    y, x = np.mgrid[:SIDE, :SIDE]
    period, phase = rng.integers(8, 14), rng.integers(0, 8)
    masks = (
        ((x - phase) % period < 3) & ((y - phase) % period < 3),
        (y - phase) % period < period // 2,
        ((x // period) + (y // period)) % 2 == 0,
    )
    pixels[masks[style], 2 - style] += 200
    return pixels.astype(np.uint8)


def paint_folder(folder: Path, per_style: int, *, first: int = 0) -> Path:
    """Writes ``folder/<style>/NN.png``."""
    for number, style in enumerate(STYLES):
        (folder / style).mkdir(parents=True, exist_ok=True)
        for seed in range(first, first + per_style):
            Image.fromarray(paint(number, seed)).save(folder / style / f"{seed:02d}.png")
    return folder


def save_checkpoint(path: Path, **options: int) -> Path:
    """Random weights of a small LSNet for the three styles; none is zero, so that all count."""
    torch.manual_seed(0)
    model = create_classifier("lsnet_n", len(STYLES), options)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    facts = {"arch": "lsnet_n", "model_options": options, "input_size": SIDE}
    torch.save({"model": model.state_dict(), **facts}, path)
    return path
