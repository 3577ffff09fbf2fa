"""Stands in for detectron2.modeling.postprocessing: has detector_postprocess of boxes, keypoints;
lacks masks, sem_seg_postprocess and traced sizes."""

from detectron2._lacking import lacks
from detectron2.structures import Instances


def detector_postprocess(
    results: Instances, output_height: int, output_width: int, mask_threshold: float = 0.5
) -> Instances:
    """Moves detections from the model's input to an output of another size.

    Args:
        results: detections with pred_boxes or proposal_boxes; its boxes are changed in place.
        output_height: of the frame that the result lives in, pixels.
        output_width: of the same.
        mask_threshold: of masks, which lite lacks.

    Returns:
        The instances, clipped to the output, without those that became empty.
    """
    if results.has("pred_masks"):
        raise lacks("detector_postprocess of pred_masks")
    scale_x = output_width / results.image_size[1]
    scale_y = output_height / results.image_size[0]
    results = Instances((output_height, output_width), **results.get_fields())
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    assert results.has(name), "Predictions must contain boxes!"
    boxes = results.get(name)
    boxes.scale(scale_x, scale_y)
    boxes.clip(results.image_size)
    results = results[boxes.nonempty()]
    if results.has("pred_keypoints"):
        results.pred_keypoints[:, :, 0] *= scale_x
        results.pred_keypoints[:, :, 1] *= scale_y
    return results
