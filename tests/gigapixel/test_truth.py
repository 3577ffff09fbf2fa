"""Known objects of one image."""

import numpy as np
import pytest
from detectron2.structures import BoxMode

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.truth import Truth


def test_annotations_of_either_box_mode():
    truth = Truth.from_annotations(
        [
            {"bbox": [1, 2, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 1},
            {"bbox": [5, 6, 7, 8], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0},
        ]
    )
    assert truth.boxes_xyxy.tolist() == [[1, 2, 31, 42], [5, 6, 7, 8]]
    assert truth.classes.tolist() == [1, 0]
    assert truth.is_ignore.tolist() == [True, False]


def test_no_annotations():
    assert len(Truth.from_annotations([])) == 0


def test_arrays_must_fit_together():
    with pytest.raises(ConfigError, match="one length M"):
        Truth(np.zeros((2, 4)), np.zeros(2), np.zeros(3, dtype=bool))
