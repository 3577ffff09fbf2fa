"""Inputs of measurements."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sparsenet.analysis.inputs import (
    default_input_size,
    image_example,
    random_batch,
    random_example,
    with_random_objects,
)
from sparsenet.config import load_config
from sparsenet.errors import ConfigError


def test_noise_is_the_same_for_a_seed() -> None:
    example = random_example((5, 7), seed=3)
    assert example["image"].shape == (3, 5, 7) and example["image"].dtype == torch.uint8
    assert torch.equal(example["image"], random_example((5, 7), seed=3)["image"])
    with pytest.raises(ConfigError, match="--input-size"):
        random_example((0, 7))


@pytest.mark.parametrize(("downsample", "left"), [(None, 20), (1, 36), (2, 32), (100, 20)])
def test_the_centre_of_an_image(tmp_path: Path, downsample: float | None, left: int) -> None:
    columns = np.broadcast_to(np.arange(80, dtype=np.uint8)[None, :, None], (40, 80, 3)).copy()
    columns[..., 2] = 200  # blue in RGB
    cv2.imwrite(str(tmp_path / "a.png"), columns[..., ::-1])
    example = image_example(tmp_path / "a.png", (8, 8), downsample=downsample)
    image = example["image"].float()
    assert image.shape == (3, 8, 8) and (image[2] == 200).all()
    scale = (80 - 2 * left) / 8
    expected = left + (torch.arange(8) + 0.5) * scale - 0.5  # means of the columns of each cell
    torch.testing.assert_close(image[0, 0], expected, atol=1, rtol=0)
    bgr = image_example(tmp_path / "a.png", (8, 8), "BGR", downsample=downsample)
    assert torch.equal(bgr["image"].flip(0), example["image"])


def test_random_objects_lie_inside() -> None:
    example = with_random_objects(random_example((50, 80)), 30, 3)
    boxes = example["instances"].gt_boxes.tensor
    assert boxes.shape == (30, 4) and (boxes >= 0).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= torch.tensor([80, 50])).all()
    assert set(example["instances"].gt_classes.tolist()) == {0, 1, 2}


def test_sizes_and_batches_of_a_configuration() -> None:
    assert default_input_size(load_config()) == (800, 1280)
    cfg = load_config(None, ["TEST.TILE.ENABLED", "True", "TEST.TILE.SIZE", "64"])
    assert default_input_size(cfg) == (64, 64)
    first, second = random_batch(cfg, (8, 8), batch_size=2, num_objects=1)
    assert not torch.equal(first["image"], second["image"])
