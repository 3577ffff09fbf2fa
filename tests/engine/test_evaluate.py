"""Full-image detections as evaluators get them."""

import numpy as np
from pycocotools import mask as coco_mask

from sparsenet.engine.evaluate import to_instances
from sparsenet.gigapixel import Detections
from sparsenet.gigapixel.masks import encode_mask


def test_masks_become_segmentations_of_the_whole_image() -> None:
    found = Detections(
        np.array([[2.0, 3, 6, 9], [0, 0, 3, 2]]), [0.9, 0.8], [0, 0], [0, 0], [0, 0], (12, 10)
    )
    assert not to_instances(found).has("segmentations")
    pixels = [np.ones((6, 4), bool), np.eye(2, 3, dtype=bool)]
    masked = Detections(**{**vars(found), "masks": [encode_mask(mask) for mask in pixels]})
    instances = to_instances(masked)
    for whole, mask, (x, y) in zip(instances.segmentations, pixels, ((2, 3), (0, 0))):
        height, width = mask.shape
        drawn = coco_mask.decode(whole)
        assert drawn.shape == (12, 10) and drawn.sum() == mask.sum()
        assert (drawn[y : y + height, x : x + width] == mask).all()
