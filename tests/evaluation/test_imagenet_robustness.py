"""The four data sets in their official folders, small, with a model that errs in a known way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import functional as F

from sparsenet.errors import DatasetError, DatasetNotFoundError
from sparsenet.evaluation.imagenet_robustness import ALEXNET_ERRORS, RobustnessEvaluator

NAMES = ("n01440764", "n01443537", "n01484850", "n01491361")


class _ReadsItsInput(nn.Module):
    """Takes the grey level of an image, in tenths, as its class."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        level = images.mean((1, 2, 3)) * self.scale  # (B,)
        return -(level[:, None] - torch.arange(4.0)).abs()  # (B, 4)


def _write(folder: Path, levels: dict[str, list[int]]) -> None:
    for name, values in levels.items():
        (folder / name).mkdir(parents=True)
        for i, value in enumerate(values):
            pixels = np.full((8, 8, 3), round(25.5 * value), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def _evaluator() -> RobustnessEvaluator:
    return RobustnessEvaluator(_ReadsItsInput(), NAMES, F.to_tensor, F.to_tensor, quiet=True)


def _write_corruptions(folder: Path) -> None:
    """All right, but of fog, severities 4 and 5, half of the photos."""
    for corruption in ALEXNET_ERRORS:
        for severity in range(1, 6):
            is_hard = corruption == "fog" and severity > 3
            levels = {n: [i, (i + 1) % 4 if is_hard else i] for i, n in enumerate(NAMES)}
            _write(folder / corruption / str(severity), levels)


def test_mean_corruption_error_is_relative_to_alexnet(tmp_path):
    _write_corruptions(tmp_path)
    _write(tmp_path / "speckle_noise" / "1", {NAMES[0]: [3]})  # of the extra set: not counted
    metrics = _evaluator().evaluate("c", tmp_path)
    assert metrics["CE/fog"] == pytest.approx(100 * 0.2 / 0.819324)
    assert metrics["mCE"] == pytest.approx(100 * 0.2 / 0.819324 / 15)
    assert metrics["top1"] == pytest.approx(100 * (1 - 0.2 / 15))
    assert sum(key.startswith("CE/") for key in metrics) == 15


def test_of_a_and_r_only_their_classes_are_choices(tmp_path):
    levels = {NAMES[0]: [0], NAMES[3]: [3, 2]}  # 2 is nearer to 3 than to 0
    _write(tmp_path, levels)
    for kind in ("a", "r"):
        assert _evaluator().evaluate(kind, tmp_path)["top1"] == 100
    with pytest.raises(DatasetError, match="must have the 4 classes of the training, it has 2"):
        _evaluator().evaluate("sketch", tmp_path)


def test_sketch_has_all_classes(tmp_path):
    _write(tmp_path, {name: [i, 0] for i, name in enumerate(NAMES)})
    assert _evaluator().evaluate("sketch", tmp_path)["top1"] == pytest.approx(62.5)


def test_wrong_folders_are_named(tmp_path):
    (tmp_path / "fog").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"15 corruptions .* it lacks gaussian_noise"):
        _evaluator().evaluate("c", tmp_path)
    _write(tmp_path / "a", {"n99999999": [1]})
    with pytest.raises(DatasetError, match="1 are not: n99999999"):
        _evaluator().evaluate("a", tmp_path / "a")
