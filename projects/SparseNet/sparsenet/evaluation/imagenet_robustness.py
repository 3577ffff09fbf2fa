"""Robustness of an ImageNet classifier: ImageNet-C, -A, -R and -Sketch, in their own folders.

* ImageNet-C (arXiv 1903.12261): ``<corruption>/<severity 1 … 5>/<class>/``, photos of 224².
* ImageNet-A (arXiv 1907.07174), -R (arXiv 2006.16241): ``<class>/``, 200 of the 1000 classes; only
  these are choices.
* ImageNet-Sketch (arXiv 1905.13549): ``<class>/``, all 1000.

Classes are WordNet ids, as in ImageNet's own folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from types import MappingProxyType

import torch
from PIL import Image
from torch import Tensor, nn

from sparsenet.data.image_folder import build_eval_loader, open_image_folder
from sparsenet.errors import DatasetError, DatasetNotFoundError
from sparsenet.evaluation.classification import evaluate_classifier

# Error of AlexNet by corruption, averaged over the severities: table of ImageNet-C's authors.
ALEXNET_ERRORS: Mapping[str, float] = MappingProxyType(
    {
        "gaussian_noise": 0.886428,
        "shot_noise": 0.894468,
        "impulse_noise": 0.922640,
        "defocus_blur": 0.819880,
        "glass_blur": 0.826268,
        "motion_blur": 0.785948,
        "zoom_blur": 0.798360,
        "snow": 0.866816,
        "frost": 0.826572,
        "fog": 0.819324,
        "brightness": 0.564592,
        "contrast": 0.853204,
        "elastic_transform": 0.646056,
        "pixelate": 0.717840,
        "jpeg_compression": 0.606500,
    }
)
SEVERITIES = range(1, 6)
KINDS = ("c", "a", "r", "sketch")

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class RobustnessEvaluator:
    """Evaluates one model on any of the four.

    Args:
        model: From images to logits of ``class_names``.
        class_names: WordNet ids by class number.
        transform: Of a photo, for evaluation: resize and crop.
        crop: The same without the resize, for photos that have the input's size; of ImageNet-C.
        precision: Below float32, forward runs under autocast.
        quiet: No progress bars.
    """

    model: nn.Module
    class_names: Sequence[str]
    transform: Transform
    crop: Transform
    batch_size: int = 64
    num_workers: int = 0
    precision: torch.dtype = torch.float32
    quiet: bool = False

    def evaluate(self, kind: str, folder: Path) -> dict[str, float]:
        """Metrics of one data set.

        Args:
            kind: One of ``KINDS``.

        Returns:
            "top1" and "top5" in percent and "loss". Of ImageNet-C, in percent: "mCE" and
            "CE/<corruption>", errors relative to AlexNet's, of which lower is better, and "top1"
            averaged over corruptions and severities.

        Raises:
            DatasetNotFoundError: If a folder is missing.
            DatasetError: If classes are not those of the model.
        """
        if kind == "c":
            return self._evaluate_corruptions(folder)
        return self._evaluate_folder(folder, self.transform, is_subset=kind in ("a", "r"))

    def _evaluate_corruptions(self, folder: Path) -> dict[str, float]:
        missing = [name for name in ALEXNET_ERRORS if not (folder / name).is_dir()]
        if missing:
            raise DatasetNotFoundError(
                f"{folder} must hold the {len(ALEXNET_ERRORS)} corruptions of ImageNet-C, it lacks "
                f"{', '.join(missing)}."
            )
        errors = {
            name: mean(
                1 - self._evaluate_folder(folder / name / str(severity), self.crop)["top1"] / 100
                for severity in SEVERITIES
            )
            for name in ALEXNET_ERRORS
        }
        relative = {name: 100 * errors[name] / ALEXNET_ERRORS[name] for name in errors}
        return {
            "mCE": mean(relative.values()),
            "top1": 100 * (1 - mean(errors.values())),
            **{f"CE/{name}": value for name, value in relative.items()},
        }

    def _evaluate_folder(
        self, folder: Path, transform: Transform, is_subset: bool = False
    ) -> dict[str, float]:
        names = None if is_subset else self.class_names
        dataset = open_image_folder(folder, transform, class_names=names)
        unknown = sorted(set(dataset.classes) - set(self.class_names))
        if unknown:
            raise DatasetError(
                f"The classes of {folder} must be among those of the model, {len(unknown)} are "
                f"not: {', '.join(unknown[:5])}."
            )
        numbers = [self.class_names.index(name) for name in dataset.classes]
        return evaluate_classifier(
            self.model,
            build_eval_loader(dataset, self.batch_size, num_workers=self.num_workers),
            class_numbers=numbers,
            precision=self.precision,
            description="/".join(folder.parts[-2:]),
            quiet=self.quiet,
        )
