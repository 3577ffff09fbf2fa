"""Small models, images and truth of the detector contract cases; the same on every machine."""

import numpy as np
import torch
from contract.core_inputs import numbers, set_weights
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from torch import nn

NUM_CLASSES = 4
IMAGE_SIZES = ((96, 128), (90, 120))
LEVELS = ["p2", "p3", "p4", "p5", "p6"]


def _fpn_config(channels: int = 16) -> CfgNode:
    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"
    model.PIXEL_STD = [200.0, 210.0, 220.0]  # features near 1: scores that differ, few ties
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.BACKBONE.FREEZE_AT = 0
    model.RESNETS.DEPTH = 18
    model.RESNETS.RES2_OUT_CHANNELS = 64
    model.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.FPN.OUT_CHANNELS = channels
    cfg.TEST.DETECTIONS_PER_IMAGE = 20
    return cfg


def mask_rcnn_config() -> CfgNode:
    """Mask R-CNN on ResNet-18 with FPN, narrow heads and few proposals."""
    cfg = _fpn_config()
    model = cfg.MODEL
    model.MASK_ON = True
    model.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]
    model.RPN.IN_FEATURES = LEVELS
    model.RPN.PRE_NMS_TOPK_TRAIN = model.RPN.PRE_NMS_TOPK_TEST = 60
    model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.POST_NMS_TOPK_TEST = 40
    model.RPN.BATCH_SIZE_PER_IMAGE = 64
    model.ROI_HEADS.NAME = "StandardROIHeads"
    model.ROI_HEADS.IN_FEATURES = LEVELS[:4]
    model.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 24
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_CONV = 1
    model.ROI_BOX_HEAD.CONV_DIM = 8
    model.ROI_BOX_HEAD.NUM_FC = 2
    model.ROI_BOX_HEAD.FC_DIM = 16
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    model.ROI_MASK_HEAD.NUM_CONV = 2
    model.ROI_MASK_HEAD.CONV_DIM = 8
    return cfg


def retinanet_config() -> CfgNode:
    """RetinaNet on ResNet-18 with FPN, two convolutions per tower."""
    cfg = _fpn_config()
    model = cfg.MODEL
    model.META_ARCHITECTURE = "RetinaNet"
    model.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    model.RESNETS.OUT_FEATURES = model.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    octave = [2 ** (i / 3) for i in range(3)]
    model.ANCHOR_GENERATOR.SIZES = [[8 * 2**i * o for o in octave] for i in range(5)]
    model.RETINANET.NUM_CLASSES = NUM_CLASSES
    model.RETINANET.NUM_CONVS = 2
    model.RETINANET.TOPK_CANDIDATES_TEST = 30
    return cfg


def semantic_config() -> CfgNode:
    """Semantic FPN on ResNet-18."""
    cfg = _fpn_config()
    model = cfg.MODEL
    model.META_ARCHITECTURE = "SemanticSegmentor"
    model.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES
    model.SEM_SEG_HEAD.CONVS_DIM = 32
    return cfg


def model_of(cfg: CfgNode) -> nn.Module:
    """The model with weights that depend on each key only."""
    return set_weights(build_model(cfg))


def polygons(index: int) -> list[list[np.ndarray]]:
    """Three objects: a triangle, a pentagon, and one of two parts."""
    shapes = [
        [[10.0, 12, 60, 15, 33, 70]],
        [[70.0, 20, 110, 25, 118, 60, 90, 85, 66, 50]],
        [[5.0, 60, 20, 62, 18, 80], [24.0, 64, 34, 66, 30, 84, 25, 80]],
    ]
    return [[np.array(p) + 2.25 * index for p in shape] for shape in shapes]


def truth(index: int, mask_format: str = "polygon") -> Instances:
    """The objects of one image."""
    size = IMAGE_SIZES[index]
    masks = PolygonMasks(polygons(index))
    target = Instances(size)
    target.gt_boxes = Boxes(masks.get_bounding_boxes().tensor)
    target.gt_classes = torch.tensor([index, 3, 1])
    is_polygon = mask_format == "polygon"
    target.gt_masks = masks if is_polygon else BitMasks.from_polygon_masks(masks, *size)
    return target


def no_truth(index: int) -> Instances:
    """An image without objects."""
    target = Instances(IMAGE_SIZES[index])
    target.gt_boxes = Boxes(torch.empty(0, 4))
    target.gt_classes = torch.empty(0, dtype=torch.int64)
    target.gt_masks = PolygonMasks([])
    return target


def batch(mask_format: str = "polygon", *, is_second_empty: bool = False) -> list[dict]:
    """Two images of different sizes with truth for every task; outputs of the first are larger."""
    inputs = []
    for index, (height, width) in enumerate(IMAGE_SIZES):
        image = 110 + 60 * numbers(f"image {index}", (3, height, width))
        labels = np.abs(numbers(f"labels {index}", (height // 6, width // 8))) * 2
        labels = np.minimum(labels, NUM_CLASSES).astype(np.int64)
        labels[labels == NUM_CLASSES] = 255
        is_empty = is_second_empty and index == 1
        inputs.append(
            {
                "image": torch.tensor(image, dtype=torch.float32),
                "instances": no_truth(index) if is_empty else truth(index, mask_format),
                "sem_seg": torch.from_numpy(labels).repeat_interleave(6, 0).repeat_interleave(8, 1),
            }
        )
    inputs[0].update(height=192, width=256)
    return inputs
