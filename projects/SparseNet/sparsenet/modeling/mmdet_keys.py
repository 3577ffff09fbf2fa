"""Names of mmdetection's two-stage detectors (Mask R-CNN with FPN) and of Detectron2's.

Values need no change: anchors, classes (background last), box deltas and channels have one order in
both. Follows mmdetection 3.3.
"""

import re

# Where Detectron2's GeneralizedRCNN keeps its parts.
DETECTOR_PARTS = ("backbone.", "proposal_generator.", "roi_heads.")

_FIRST_LEVEL = 2  # of Detectron2's FPN: p2 is the map of stride 4
_NAMES = {
    "rpn_head.rpn_conv": "proposal_generator.rpn_head.conv",
    "rpn_head.rpn_cls": "proposal_generator.rpn_head.objectness_logits",
    "rpn_head.rpn_reg": "proposal_generator.rpn_head.anchor_deltas",
    "roi_head.bbox_head.fc_cls": "roi_heads.box_predictor.cls_score",
    "roi_head.bbox_head.fc_reg": "roi_heads.box_predictor.bbox_pred",
    "roi_head.mask_head.upsample": "roi_heads.mask_head.deconv",
    "roi_head.mask_head.conv_logits": "roi_heads.mask_head.predictor",
}
# Numbered layers: (pattern, name, number of the first).
_NUMBERED = (
    (r"neck\.lateral_convs\.(\d+)\.conv", "backbone.fpn_lateral", _FIRST_LEVEL),
    (r"neck\.fpn_convs\.(\d+)\.conv", "backbone.fpn_output", _FIRST_LEVEL),
    (r"roi_head\.bbox_head\.shared_fcs\.(\d+)", "roi_heads.box_head.fc", 1),
    (r"roi_head\.mask_head\.convs\.(\d+)\.conv", "roi_heads.mask_head.mask_fcn", 1),
)


def detector_name(key: str) -> str | None:
    """Detectron2's name of a key of mmdetection's neck or heads; None where there is none."""
    module, _, leaf = key.rpartition(".")
    if module in _NAMES:
        return f"{_NAMES[module]}.{leaf}"
    for pattern, name, first in _NUMBERED:
        if match := re.fullmatch(pattern, module):
            return f"{name}{int(match[1]) + first}.{leaf}"
    return None
