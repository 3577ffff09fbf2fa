"""Mosaic, mixup and the augmentations of single images: ``INPUT.AUG``.

After the recipe of the unofficial Sparse R-CNN of liangheming, which follows YOLO: an example is a
mosaic of four images, a blend of two, or one image; then all are flipped. Differs from it in:
colour, blur and noise are drawn each for itself, every part of a mosaic shows its own pixels and
boxes only, what is cut away counts by its share of the area, and objects too little of which is
left become ignore boxes instead of background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from sparsenet.data.augmentation import (
    AffineRanges,
    RandomBlur,
    RandomHSV,
    RandomNoise,
    RandomPerspective,
    RandomSideCrop,
    SeededAugmentation,
)
from sparsenet.data.image_transforms import Fill
from sparsenet.data.sample import Sample, VisibilityLimits, joined
from sparsenet.errors import ConfigError

NUM_PARTNERS = 3  # images that a mosaic needs beside its own

# Gives the partner of number 0, 1 or 2 of an image.
LoadPartner = Callable[[int], Sample]
# Brings an image to the size that the model gets.
Fit = Callable[[Sample], Sample]


@dataclass(frozen=True)
class SampleAugmenter:
    """Draws one augmented example.

    Args:
        mosaic_prob: Share of mosaics.
        mixup_prob: Share of blends; both together at most 1.
        side: Of a mosaic, pixels.
        mixup_beta: Both parameters of the beta distribution of a blend's weights.
        fill: Grey levels beyond images.
        flip: Probability of a horizontal flip.
        color: Of every image, parts of mosaics and blends too; in this order.
        crop: Before an image is fitted, of single images.
        affine: After that, of single images.
        mosaic_affine: From a mosaic's canvas, twice as wide and high, to its side.
        limits: What becomes an ignore box.

    Raises:
        ConfigError: If the shares do not fit together, or mosaics have no side.
    """

    mosaic_prob: float
    mixup_prob: float
    side: int
    mixup_beta: float
    fill: Fill
    flip: float
    color: Sequence[SeededAugmentation]
    crop: SeededAugmentation
    affine: SeededAugmentation
    mosaic_affine: SeededAugmentation
    limits: VisibilityLimits = field(default_factory=VisibilityLimits)

    def __post_init__(self) -> None:
        shares = (self.mosaic_prob, self.mixup_prob)
        if min(shares) < 0 or sum(shares) > 1 or self.mixup_beta <= 0:
            raise ConfigError(
                "INPUT.AUG.MOSAIC.PROB and MIXUP.PROB must be at least 0 and at most 1 together, "
                f"and MIXUP.BETA positive, got {shares} and {self.mixup_beta}."
            )
        if self.mosaic_prob and self.side < 2:
            raise ConfigError(
                "A mosaic needs a side: set INPUT.LETTERBOX, or INPUT.AUG.MOSAIC.SIZE, to the "
                f"pixels it should have, got {self.side}."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, *, side: int, flip: float) -> SampleAugmenter:
        """From ``INPUT.AUG``; ``side`` stands in for a ``MOSAIC.SIZE`` of 0."""
        node = cfg.INPUT.AUG
        fill = tuple(float(round(level)) for level in cfg.MODEL.PIXEL_MEAN)
        side = node.MOSAIC.SIZE or side
        on_mosaic = AffineRanges(0.0, tuple(node.MOSAIC.SCALE), node.MOSAIC.TRANSLATE)
        ranges = AffineRanges(
            degrees=node.AFFINE.DEGREES,
            scale=tuple(node.AFFINE.SCALE),
            translate=node.AFFINE.TRANSLATE,
            shear=node.AFFINE.SHEAR,
            perspective=node.AFFINE.PERSPECTIVE,
        )
        return cls(
            mosaic_prob=node.MOSAIC.PROB,
            mixup_prob=node.MIXUP.PROB,
            side=side,
            mixup_beta=node.MIXUP.BETA,
            fill=fill,
            flip=flip,
            color=(
                RandomHSV(node.HSV.PROB, node.HSV.GAINS, cfg.INPUT.FORMAT),
                RandomBlur(node.BLUR.PROB),
                RandomNoise(node.NOISE.PROB, tuple(node.NOISE.SIGMA)),
            ),
            crop=RandomSideCrop(node.CROP.PROB, node.CROP.MIN_SHARE),
            affine=RandomPerspective(node.AFFINE.PROB, ranges, fill),
            mosaic_affine=RandomPerspective(1.0, on_mosaic, fill, (side, side)),
            limits=VisibilityLimits(node.MIN_VISIBLE, node.MIN_SIDE, node.MAX_ASPECT),
        )

    def __call__(
        self, sample: Sample, rng: np.random.Generator, partner: LoadPartner, fit: Fit
    ) -> Sample:
        """An example of one image and, where it is drawn so, of its partners."""
        kind = rng.random()
        if kind < self.mosaic_prob:
            parts = [sample, *(partner(i) for i in range(NUM_PARTNERS))]
            parts = [self._recolored(part, rng) for part in parts]
            mixed = self._apply(
                self.mosaic_affine, make_mosaic(parts, self.side, rng, self.fill), rng
            )
        elif kind < self.mosaic_prob + self.mixup_prob:
            pair = (fit(self._recolored(part, rng)) for part in (sample, partner(0)))
            weight = rng.beta(self.mixup_beta, self.mixup_beta)
            mixed = blend(*pair, weight=weight, fill=self.fill)
        else:
            cropped = self._apply(self.crop, self._recolored(sample, rng), rng)
            mixed = self._apply(self.affine, fit(cropped), rng)
        if rng.random() < self.flip:
            mixed = mixed.transformed(T.HFlipTransform(mixed.size[1]))
        return self.limits.applied(mixed)

    def _recolored(self, sample: Sample, rng: np.random.Generator) -> Sample:
        for augmentation in self.color:
            sample = self._apply(augmentation, sample, rng)
        return sample

    @staticmethod
    def _apply(
        augmentation: SeededAugmentation, sample: Sample, rng: np.random.Generator
    ) -> Sample:
        transform = augmentation.draw(sample.size, rng)
        return sample if isinstance(transform, T.NoOpTransform) else sample.transformed(transform)


def is_augmented(cfg: CfgNode) -> bool:
    """Whether ``INPUT.AUG`` or ``INPUT.LETTERBOX`` switch anything on."""
    nodes = [value for value in cfg.INPUT.AUG.values() if isinstance(value, CfgNode)]
    return cfg.INPUT.LETTERBOX > 0 or any(node.PROB > 0 for node in nodes)


def make_mosaic(parts: Sequence[Sample], side: int, rng: np.random.Generator, fill: Fill) -> Sample:
    """Four images about a drawn centre, on a canvas of twice the side.

    Each is resized to a longer side of ``side`` and touches the centre with one corner; what
    reaches beyond the canvas is cut off.

    Args:
        parts: Upper left, upper right, lower left, lower right.
        side: Pixels.
    """
    canvas = np.empty((2 * side, 2 * side, 3), np.uint8)
    canvas[:] = np.array(fill, np.uint8)
    x, y = (int(c) for c in rng.integers(side // 2, side + side // 2 + 1, size=2))
    placed = []
    for number, part in enumerate(parts):
        part = _with_longer_side(part, side)
        height, width = part.size
        left = x if number % 2 else x - width
        top = y if number >= 2 else y - height
        first = (max(left, 0), max(top, 0))
        last = (min(left + width, 2 * side), min(top + height, 2 * side))
        canvas[first[1] : last[1], first[0] : last[0]] = part.image[
            first[1] - top : last[1] - top, first[0] - left : last[0] - left
        ]
        placed.append(part.shifted(left, top).cropped_to((*first, *last)))
    return joined(canvas, placed)


def blend(first: Sample, second: Sample, *, weight: float, fill: Fill) -> Sample:
    """``weight`` of one image and the rest of another, with the objects of both.

    Args:
        first: At the upper left of the common canvas, as the second.
        weight: Of the first, in [0, 1].
    """
    size = tuple(max(sides) for sides in zip(first.size, second.size))
    images = []
    for sample in (first, second):
        canvas = np.empty((*size, 3), np.uint8)
        canvas[:] = np.array(fill, np.uint8)
        canvas[: sample.size[0], : sample.size[1]] = sample.image
        images.append(canvas)
    image = cv2.addWeighted(images[0], weight, images[1], 1 - weight, 0)
    return joined(image, (first, second))


def _with_longer_side(sample: Sample, side: int) -> Sample:
    height, width = sample.size
    if max(height, width) == side:
        return sample
    scale = side / max(height, width)
    new_size = [max(1, round(length * scale)) for length in (height, width)]
    return sample.transformed(T.ResizeTransform(height, width, *new_size))
