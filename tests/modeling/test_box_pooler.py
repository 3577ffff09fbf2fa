"""The fast pooler gives what Detectron2's gives, and leaves to it what it does not know."""

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes

from sparsenet.modeling.head.box_pooler import BoxPooler

SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def inputs() -> tuple[list[torch.Tensor], list[Boxes]]:
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(2, 8, 64 // 2**i, 48 // 2**i, generator=generator) for i in range(4)]
    sides = torch.tensor([4.0, 30.0, 111.9, 112.0, 224.0, 500.0])
    boxes = torch.rand(2, 6, 4, generator=generator) * 60
    boxes[..., 2:] = boxes[..., :2] + sides[None, :, None]
    return features, [Boxes(b) for b in boxes]


@pytest.mark.parametrize(
    ("pooler_type", "sampling_ratio"), [("ROIAlignV2", 2), ("ROIAlignV2", 0), ("ROIAlign", 2)]
)
def test_equals_detectron2(pooler_type: str, sampling_ratio: int) -> None:
    features, boxes = inputs()
    ours = BoxPooler(7, SCALES, sampling_ratio, pooler_type)
    theirs = ROIPooler(7, SCALES, sampling_ratio, pooler_type)
    assert not list(ours.state_dict())
    torch.testing.assert_close(ours(features, boxes), theirs(features, boxes), rtol=1e-5, atol=1e-5)


def test_a_box_that_is_not_finite_disturbs_no_other() -> None:
    features, boxes = inputs()
    pooler = BoxPooler(7, SCALES, 2, "ROIAlignV2")
    expected = pooler(features, boxes)
    boxes[0].tensor[2] = float("nan")
    pooled = pooler(features, boxes)
    others = [i for i in range(12) if i != 2]
    torch.testing.assert_close(pooled[others], expected[others])
