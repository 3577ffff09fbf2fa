"""Stands in for detectron2.data.transforms.augmentation: has Augmentation, AugmentationList,
AugInput and apply_augmentations with their older names; lacks nothing."""

import inspect
import pprint
from collections.abc import Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "TransformGen",
    "apply_augmentations",
    "apply_transform_gens",
]


class Augmentation:
    """A policy, often random, that looks at an input and decides on a `Transform`.

    `input_args` names the attributes of the AugInput that `get_transform` takes. None derives them:
    a single argument is the image, several go by their names.
    """

    input_args: tuple[str, ...] | None = None

    def _init(self, params: dict[str, Any] | None = None) -> None:
        for key, value in (params or {}).items():
            if key != "self" and not key.startswith("_"):
                setattr(self, key, value)

    def get_transform(self, *args: Any) -> Transform:
        """Decides on the transform for one input; subclasses implement it."""
        raise NotImplementedError

    def _input_names(self) -> tuple[str, ...]:
        if self.input_args is None:
            parameters = list(inspect.signature(self.get_transform).parameters.values())
            if len(parameters) == 1:
                self.input_args = ("image",)
            elif any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
                raise TypeError(
                    f"{type(self).__name__}.get_transform must name its arguments (no *, **): "
                    "they are taken from the input; or set input_args, or override __call__"
                )
            else:
                self.input_args = tuple(p.name for p in parameters)
        return self.input_args

    def __call__(self, aug_input: Any) -> Transform:
        """Transforms `aug_input` in place and returns the transform that was applied."""
        for name in self._input_names():
            if not hasattr(aug_input, name):
                raise AttributeError(
                    f"{type(self).__name__} needs the input attribute {name!r}, which "
                    f"{type(aug_input).__name__} does not have"
                )
        tfm = self.get_transform(*(getattr(aug_input, name) for name in self._input_names()))
        assert isinstance(tfm, Transform | TransformList), (
            f"{type(self).__name__}.get_transform must return a Transform, got {type(tfm).__name__}"
        )
        aug_input.transform(tfm)
        return tfm

    def _rand_range(self, low: float = 1.0, high: float | None = None, size: Any = None) -> Any:
        """Draws uniformly from [0, low) or, with `high`, from [low, high)."""
        low, high = (0, low) if high is None else (low, high)
        return np.random.uniform(low, high, [] if size is None else size)

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters.values()
        has_values = all(hasattr(self, p.name) for p in parameters)
        if not has_values:
            return super().__repr__()
        shown = [
            f"{p.name}={pprint.pformat(getattr(self, p.name))}"
            for p in parameters
            if getattr(self, p.name) is not p.default
        ]
        return (
            f"{type(self).__name__}({', '.join(s if chr(10) not in s else '...' for s in shown)})"
        )

    __str__ = __repr__


class _FixedAugmentation(Augmentation):
    """A transform in the clothes of an augmentation."""

    def __init__(self, tfm: Transform):
        self.tfm = tfm

    def get_transform(self, *args: Any) -> Transform:
        return self.tfm

    def __call__(self, aug_input: Any) -> Transform:
        aug_input.transform(self.tfm)
        return self.tfm

    def __repr__(self) -> str:
        return repr(self.tfm)

    __str__ = __repr__


def _as_augmentation(item: Any) -> Augmentation:
    assert isinstance(item, Transform | Augmentation), (
        f"each augmentation must be an Augmentation or a Transform, got {type(item).__name__}"
    )
    return item if isinstance(item, Augmentation) else _FixedAugmentation(item)


class AugmentationList(Augmentation):
    """Augmentations one after the other, each seeing what the one before it left."""

    def __init__(self, augs: Sequence[Augmentation | Transform]):
        super().__init__()
        self.augs = [_as_augmentation(x) for x in augs]

    def __call__(self, aug_input: Any) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"

    __str__ = __repr__


def _check_image(image: np.ndarray) -> None:
    assert isinstance(image, np.ndarray), f"image must be a numpy array, got {type(image).__name__}"
    assert image.dtype == np.uint8 or not np.issubdtype(image.dtype, np.integer), (
        f"image must be uint8 or floating point, got {image.dtype}; convert it first"
    )
    assert image.ndim in (2, 3), f"image must be (h, w) or (h, w, C), got shape {image.shape}"


class AugInput:
    """What augmentations see and change: an image and, if given, its boxes and label map."""

    def __init__(
        self,
        image: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        sem_seg: np.ndarray | None = None,
    ):
        """Args:
        image: (h, w) or (h, w, C), uint8 in [0, 255] or floating point in [0, 1] or [0, 255].
        boxes: (N, 4) float32, absolute XYXY.
        sem_seg: (h, w) uint8 labels.
        """
        _check_image(image)
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Applies `tfm` to everything here, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(
        self, augmentations: Sequence[Augmentation | Transform]
    ) -> TransformList:
        """Applies all of them in place and returns the transforms."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(augmentations: Sequence[Augmentation | Transform], inputs: Any) -> tuple:
    """Returns (the transformed image or input, the TransformList); `inputs` may be a bare image."""
    if not isinstance(inputs, np.ndarray):
        return inputs, inputs.apply_augmentations(augmentations)
    aug_input = AugInput(inputs)
    tfms = aug_input.apply_augmentations(augmentations)
    return aug_input.image, tfms


# Names of 2020, still used by projects written against Detectron2 0.2.
apply_transform_gens = apply_augmentations
TransformGen = Augmentation
StandardAugInput = AugInput
