"""Stands in for detectron2.modeling.postprocessing: has detector_postprocess and
sem_seg_postprocess; lacks traced sizes."""

from detectron2.structures import Instances, ROIMasks
from torch.nn import functional as F


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Moves detections from the model's input to an output of another size.

    Args:
        results: detections with pred_boxes or proposal_boxes; its boxes are changed in place.
        output_height: of the frame that the result lives in, pixels.
        output_width: of the same.
        mask_threshold: least probability of a pixel of a mask.

    Returns:
        The instances, clipped to the output, without those that became empty. Masks of boxes
        become bool masks (N, output_height, output_width).
    """
    scale_x = output_width / results.image_size[1]
    scale_y = output_height / results.image_size[0]
    results = Instances((output_height, output_width), **results.get_fields())
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    assert results.has(name), "Predictions must contain boxes!"
    boxes = results.get(name)
    boxes.scale(scale_x, scale_y)
    boxes.clip(results.image_size)
    results = results[boxes.nonempty()]
    if results.has("pred_masks"):
        masks = results.pred_masks
        if not isinstance(masks, ROIMasks):
            masks = ROIMasks(masks[:, 0])  # (N, 1, M, M) -> (N, M, M)
        size = (output_height, output_width)
        results.pred_masks = masks.to_bitmasks(results.pred_boxes, *size, mask_threshold).tensor
    if results.has("pred_keypoints"):
        results.pred_keypoints[:, :, 0] *= scale_x
        results.pred_keypoints[:, :, 1] *= scale_y
    return results


def sem_seg_postprocess(result, img_size, output_height, output_width):
    """Returns (C, output_height, output_width) scores of a padded (C, H, W) prediction.

    ``img_size`` is the (h, w) of the image inside the padding.
    """
    inside = result[None, :, : img_size[0], : img_size[1]]  # (1, C, h, w)
    size = (output_height, output_width)
    resized = F.interpolate(inside, size=size, mode="bilinear", align_corners=False)
    return resized[0]  # (C, output_height, output_width)
