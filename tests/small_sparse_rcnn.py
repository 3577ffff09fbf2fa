"""A Sparse R-CNN small enough for tests: four convolutions, width 32, two stages, 12 proposals."""

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, Instances
from torch import nn

from sparsenet.config import add_sparsenet_config
from sparsenet.modeling.meta_arch import SparseRCNN  # registers the architecture

WIDTH = 32
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}


@BACKBONE_REGISTRY.register()
class TinyTestPyramid(Backbone):
    """Strided convolutions with the names and strides of an FPN."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 4, stride=4)
        self.downs = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, 2, 1) for _ in range(3))

    def forward(self, x):
        maps = [self.stem(x).relu()]
        for down in self.downs:
            maps.append(down(maps[-1]).relu())
        return dict(zip(STRIDES, maps))

    def output_shape(self):
        return {name: ShapeSpec(channels=WIDTH, stride=s) for name, s in STRIDES.items()}

    @property
    def size_divisibility(self):
        return 32


def small_cfg(**sparse_rcnn_keys):
    """Configuration of the small model; keyword arguments set keys of MODEL.SparseRCNN."""
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = SparseRCNN.__name__
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [120.0] * 3, [60.0] * 3
    cfg.MODEL.BACKBONE.NAME = TinyTestPyramid.__name__
    cfg.MODEL.ROI_HEADS.IN_FEATURES = list(STRIDES)
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = 2
    defaults = {
        "NUM_CLASSES": 3,
        "NUM_PROPOSALS": 12,
        "HIDDEN_DIM": WIDTH,
        "DIM_DYNAMIC": 8,
        "DIM_FEEDFORWARD": 64,
        "NUM_HEADS": 2,
    }
    for key, value in (defaults | sparse_rcnn_keys).items():
        setattr(cfg.MODEL.SparseRCNN, key, value)
    return cfg


def small_model(**sparse_rcnn_keys):
    """The small model with weights of seed 0, in training mode."""
    torch.manual_seed(0)
    return build_model(small_cfg(**sparse_rcnn_keys)).train()


def training_item(boxes, classes=None, *, size=(64, 96), ignore=None, seed=0):
    """A mapper's output: random uint8 image, instances, and ignore boxes where given."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    classes = torch.zeros(len(boxes)) if classes is None else torch.tensor(classes)
    item = {
        "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
        "instances": Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes.long()),
    }
    if ignore is not None:
        item["ignore_boxes"] = Boxes(torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4))
    return item
