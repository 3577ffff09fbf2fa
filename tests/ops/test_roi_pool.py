"""The row-summing RoIAlign against torchvision's operator."""

import pytest
import torch
from torchvision.ops import roi_align

from sparsenet.ops.roi_pool import feature_table, roi_align_pyramid

SCALES = (1 / 4, 1 / 8, 1 / 16)


def pyramid(num_images: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [(20, 28), (10, 14), (5, 7)]
    return [
        torch.randn(num_images, 6, *side, generator=generator, dtype=dtype).requires_grad_()
        for side in sides
    ]


def boxes_of_every_kind() -> torch.Tensor:
    """(2, 6, 4): inside, tiny, empty, over the border, far outside, larger than the image."""
    one = torch.tensor(
        [
            [10.2, 7.7, 60.1, 50.9],
            [33.3, 20.1, 33.9, 20.4],
            [40.0, 40.0, 40.0, 40.0],
            [-30.0, -12.5, 25.0, 30.0],
            [300.0, 200.0, 420.0, 260.0],
            [-50.0, -60.0, 190.0, 150.0],
        ]
    )
    return torch.stack([one, one.flip(0) + 1.3])


def by_torchvision(
    features: list[torch.Tensor], boxes: torch.Tensor, levels: torch.Tensor, size: tuple, ratio: int
) -> torch.Tensor:
    images = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    rois = torch.cat([images[:, None].to(boxes), boxes.flatten(0, 1)], dim=1).to(features[0].dtype)
    out = features[0].new_zeros(len(rois), features[0].shape[1], *size)
    for i, (feature, scale) in enumerate(zip(features, SCALES)):
        chosen = levels.flatten() == i
        out[chosen] = roi_align(feature, rois[chosen], size, scale, ratio, aligned=True)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize(("size", "ratio"), [((7, 7), 2), ((3, 5), 1), ((2, 2), 3)])
def test_equals_torchvision(dtype, is_channels_last, size, ratio) -> None:
    features, boxes = pyramid(2, dtype), boxes_of_every_kind()
    levels = torch.arange(12).remainder(3).view(2, 6)
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    inputs = [feature.contiguous(memory_format=layout) for feature in features]
    expected = by_torchvision(features, boxes, levels, size, ratio)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, features, grad)
    pooled = roi_align_pyramid(
        feature_table(inputs), boxes, levels, scales=SCALES, output_size=size, sampling_ratio=ratio
    )
    grads = torch.autograd.grad(pooled, features, grad)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(pooled, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(grads, expected_grads):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=10 * tolerance)


def test_half_precision_features_keep_exact_boxes() -> None:
    features = [feature.detach().bfloat16() for feature in pyramid(2, torch.float32)]
    boxes, levels = boxes_of_every_kind(), torch.zeros(2, 6, dtype=torch.long)
    options = {"scales": SCALES, "output_size": (7, 7), "sampling_ratio": 2}
    pooled = roi_align_pyramid(feature_table(features), boxes, levels, **options)
    exact_table = feature_table([f.float() for f in features])
    exact = roi_align_pyramid(exact_table, boxes, levels, **options)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled, exact.bfloat16())


def test_boxes_that_are_not_finite_pool_zeros() -> None:
    boxes = torch.full((1, 2, 4), float("nan"))
    boxes[0, 1] = torch.tensor([0.0, 0.0, 40.0, 40.0])
    pooled = roi_align_pyramid(
        feature_table(pyramid(1, torch.float32)),
        boxes,
        torch.zeros(1, 2, dtype=torch.long),
        scales=SCALES,
        output_size=(7, 7),
        sampling_ratio=2,
    )
    assert pooled[0].eq(0).all() and pooled[1].abs().sum() > 0


def test_adaptive_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="sampling_ratio must be at least 1, got 0"):
        roi_align_pyramid(
            feature_table(pyramid(1, torch.float32)),
            torch.zeros(1, 1, 4),
            torch.zeros(1, 1, dtype=torch.long),
            scales=SCALES,
            output_size=(7, 7),
            sampling_ratio=0,
        )
