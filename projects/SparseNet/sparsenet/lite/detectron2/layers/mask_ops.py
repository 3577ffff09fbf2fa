"""Stands in for detectron2.layers.mask_ops: has paste_masks_in_image; lacks the older rounding
paste and its padding functions."""

import torch
from detectron2._lacking import package_getattr
from torch.nn import functional as F

__all__ = ["paste_masks_in_image"]

__getattr__ = package_getattr(__name__)


def paste_masks_in_image(
    masks: torch.Tensor, boxes: torch.Tensor, image_shape: tuple[int, int], threshold: float = 0.5
):
    """Resizes each mask bilinearly to its box and puts it into an empty image.

    Args:
        masks: (N, M, M) probabilities, each covering its whole box.
        boxes: (N, 4) xyxy in pixels, as Boxes or tensor.
        image_shape: (h, w) of the images.
        threshold: least value of a pixel that belongs to the mask; negative: no decision.

    Returns:
        (N, h, w) bool, or with a negative threshold uint8 in [0, 255].
    """
    assert masks.shape[-1] == masks.shape[-2], "Only square mask predictions are supported"
    height, width = image_shape
    dtype = torch.bool if threshold >= 0 else torch.uint8
    images = torch.zeros(len(masks), height, width, device=masks.device, dtype=dtype)
    if len(masks) == 0:
        return images
    if not isinstance(boxes, torch.Tensor):
        boxes = boxes.tensor
    assert len(boxes) == len(masks), boxes.shape
    limits = boxes.new_tensor([width, height])
    # The bilinear border of a mask reaches less than half a cell of it out of the box; Detectron2
    # looks at one pixel around.
    starts = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
    ends = torch.minimum(boxes[:, 2:].ceil() + 1, limits).int().tolist()
    for image, mask, box, (x0, y0), (x1, y1) in zip(images, masks, boxes, starts, ends):
        if x0 >= x1 or y0 >= y1:
            continue
        pixels = _sample(mask, box, (x0, y0, x1, y1))
        image[y0:y1, x0:x1] = pixels >= threshold if threshold >= 0 else (pixels * 255).to(dtype)
    return images


def _sample(
    mask: torch.Tensor, box: torch.Tensor, window: tuple[int, int, int, int]
) -> torch.Tensor:
    """The values of a mask over ``box`` at the pixel centres of a window x0, y0, x1, y1."""
    x0, y0, x1, y1 = window
    options = {"device": mask.device, "dtype": torch.float32}
    xs, ys = torch.arange(x0, x1, **options) + 0.5, torch.arange(y0, y1, **options) + 0.5
    xs = (xs - box[0]) / (box[2] - box[0]) * 2 - 1  # -1 and 1 are the sides of the box
    ys = (ys - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)  # (h, w, 2) of x, y
    values = F.grid_sample(mask[None, None].float(), grid[None], align_corners=False)
    return values[0, 0]  # (h, w)
