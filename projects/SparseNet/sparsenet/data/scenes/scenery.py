"""What stands in a drawn scene and is no object: trees, bushes, lamps, signs, bins, benches."""

from __future__ import annotations

import cv2
import numpy as np

from sparsenet.data.scenes.pen import Colour, Pen, finish, pick, scaled, sprite_size

# Kind -> (height in heights of a person, width over height, how frequent).
SCENERY_KINDS: dict[str, tuple[float, float, float]] = {
    "tree": (3.2, 0.8, 0.34),
    "bush": (0.7, 1.6, 0.2),
    "lamp": (3.4, 0.18, 0.14),
    "sign": (1.5, 0.32, 0.1),
    "bin": (0.6, 0.62, 0.08),
    "bench": (0.5, 2.2, 0.07),
    "pillar": (1.1, 0.34, 0.07),
}
_LEAVES: tuple[Colour, ...] = (
    (54, 84, 40),
    (72, 104, 48),
    (92, 112, 56),
    (44, 70, 46),
    (120, 112, 52),
)
_METAL: tuple[Colour, ...] = ((70, 74, 78), (40, 44, 48), (130, 134, 138), (52, 66, 58))
_BRIGHT: tuple[Colour, ...] = (
    (186, 40, 36),
    (40, 84, 160),
    (220, 180, 50),
    (236, 236, 232),
    (60, 120, 70),
)


def draw_scenery(height: int, kind: str, seed: tuple[int, ...]) -> np.ndarray:
    """One piece of scenery of ``height`` pixels; RGBA uint8, the same for the same seed."""
    rng = np.random.default_rng(seed)
    pen = Pen(height, SCENERY_KINDS[kind][1])
    half = pen.aspect / 2
    if kind in ("tree", "bush"):
        _foliage(pen, kind, rng)
    elif kind == "bench":
        _bench(pen, half, pick(rng, ((120, 84, 52), (90, 94, 96), (150, 120, 80))))
    else:
        _street_furniture(pen, kind, half, rng)
    return finish(pen.canvas, sprite_size(height, pen.aspect), rng, folds=0.08)


def _foliage(pen: Pen, kind: str, rng: np.random.Generator) -> None:
    leaves, half = pick(rng, _LEAVES), pen.aspect / 2
    centre, reach, blob = (0.36, 0.3, 0.075) if kind == "tree" else (0.56, 0.36, 0.17)
    if kind == "tree":
        pen.limb([(0, 0.98), (float(rng.normal(0, 0.02)), 0.45)], [0.07, 0.04], (86, 66, 50))
    for shade in (0.6, 0.8, 1.0, 1.2):
        for _ in range(40):
            angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
            x = radius * np.cos(angle) * half * 0.78
            y = centre + radius * np.sin(angle) * reach - 0.05 * (shade - 0.8)
            size = float(rng.uniform(0.4, 1.1)) * blob * (1.4 - 0.5 * shade)
            pen.ellipse((float(x), float(y)), (size * 1.15, size), scaled(leaves, shade))
    # Gaps and single leaves: roughen colour and edge.
    white = rng.normal(1, 0.22, pen.canvas.shape[:2]).astype(np.float32)
    noise = cv2.GaussianBlur(white, (0, 0), 1.5)
    pen.canvas[:] = np.clip(pen.canvas * np.clip(noise, 0, 1)[..., None], 0, 255)


def _bench(pen: Pen, half: float, wood: Colour) -> None:
    for x in (-half * 0.8, half * 0.8):
        pen.box(x - 0.03, 0.5, x + 0.03, 0.99, _METAL[1])
    for y in (0.03, 0.2):
        pen.box(-half * 0.95, y, half * 0.95, y + 0.12, wood)
    pen.box(-half * 0.98, 0.48, half * 0.98, 0.6, scaled(wood, 0.85))


def _street_furniture(pen: Pen, kind: str, half: float, rng: np.random.Generator) -> None:
    metal, bright = pick(rng, _METAL, 6), pick(rng, _BRIGHT, 6)
    if kind == "lamp":
        pen.limb([(0, 0.98), (0, 0.05)], [0.028, 0.016], metal)
        pen.ellipse((0, 0.035), (half * 0.7, 0.03), (238, 232, 206))
        pen.box(-0.025, 0.94, 0.025, 1, scaled(metal, 0.7))
    elif kind == "sign":
        pen.limb([(0, 0.98), (0, 0.2)], [0.03, 0.03], metal)
        if rng.random() < 0.5:
            pen.ellipse((0, 0.16), (half * 0.92, 0.15), bright)
            pen.ellipse((0, 0.16), (half * 0.6, 0.1), (236, 236, 232))
        else:
            pen.box(-half * 0.95, 0.02, half * 0.95, 0.24, bright)
    elif kind == "bin":
        pen.polygon(
            [(-half * 0.9, 0.12), (half * 0.9, 0.12), (half * 0.7, 0.98), (-half * 0.7, 0.98)],
            bright,
        )
        pen.box(-half, 0.02, half, 0.14, scaled(bright, 0.7))
    else:  # a pillar: upright like a person
        pen.box(-half * 0.8, 0.06, half * 0.8, 0.98, (150, 144, 134))
        pen.box(-half, 0.0, half, 0.08, (168, 162, 150))
        pen.box(-half, 0.93, half, 1.0, (126, 120, 112))
