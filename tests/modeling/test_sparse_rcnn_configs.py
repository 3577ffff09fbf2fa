"""The YAML files of Sparse R-CNN: published sizes, official text, every variant builds."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from small_sparse_rcnn import training_item

import sparsenet.modeling  # noqa: F401  (registers the models)
from sparsenet.config import load_config
from sparsenet.engine.optimizer import build_optimizer

COCO = Path(__file__).parents[2] / "configs/coco"
# Of the published models; the factors of frozen norms are buffers and do not count.
PARAMETERS = {
    "res50.100pro.3x": 106_237_768,
    "res50.300pro.3x": 106_289_768,
    "res101.100pro.3x": 125_177_672,
    "res101.300pro.3x": 125_229_672,
}
OFFICIAL = """
MODEL:
  META_ARCHITECTURE: "SparseRCNN"
  WEIGHTS: "torchvision-R-101.pkl"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  BACKBONE: {NAME: "build_resnet_fpn_backbone", FREEZE_AT: 0}
  RESNETS: {DEPTH: 18, STRIDE_IN_1X1: False, OUT_FEATURES: ["res2", "res3", "res4", "res5"],
            RES2_OUT_CHANNELS: 64}
  FPN: {IN_FEATURES: ["res2", "res3", "res4", "res5"]}
  ROI_HEADS: {IN_FEATURES: ["p2", "p3", "p4", "p5"]}
  ROI_BOX_HEAD: {POOLER_TYPE: "ROIAlignV2", POOLER_RESOLUTION: 7, POOLER_SAMPLING_RATIO: 2}
  SparseRCNN:
    NUM_CLASSES: 1
    NUM_PROPOSALS: 500
    NHEADS: 8
    DROPOUT: 0.0
    DIM_FEEDFORWARD: 2048
    ACTIVATION: 'relu'
    HIDDEN_DIM: 256
    NUM_CLS: 1
    NUM_REG: 3
    NUM_HEADS: 6
    NUM_DYNAMIC: 2
    DIM_DYNAMIC: 64
    CLASS_WEIGHT: 2.0
    GIOU_WEIGHT: 2.0
    L1_WEIGHT: 5.0
    DEEP_SUPERVISION: True
    NO_OBJECT_WEIGHT: 0.1
    USE_FOCAL: True
    ALPHA: 0.25
    GAMMA: 2.0
    PRIOR_PROB: 0.01
DATASETS:
  TRAIN: ("CrowdHuman_train",)
  TEST: ("CrowdHuman_val",)
SOLVER:
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 1.0
  IMS_PER_BATCH: 16
  BASE_LR: 0.000025
  STEPS: (37500,)
  MAX_ITER: 46875
  WARMUP_FACTOR: 0.01
  WARMUP_ITERS: 1000
  WEIGHT_DECAY: 0.0001
  CHECKPOINT_PERIOD: 5000
  CLIP_GRADIENTS: {ENABLED: True, CLIP_TYPE: "full_model", CLIP_VALUE: 1.0, NORM_TYPE: 2.0}
SEED: 40244023
INPUT:
  MIN_SIZE_TRAIN: (640, 672, 704, 736, 768, 800)
  MAX_SIZE_TRAIN: 1500
  MAX_SIZE_TRAIN: 1500
  CROP:
    ENABLED: True
    TYPE: "absolute_range"
    SIZE: (384, 600)
  FORMAT: "RGB"
TEST:
  EVAL_PERIOD: 5000
  AUG:
    ENABLED: True
    MIN_SIZES: (400, 500, 600, 640, 700, 900, 1000, 1100, 1200, 1300, 1400, 1800, 800)
    CVPODS_TTA: True
    SCALE_FILTER: True
    SCALE_RANGES: ([96, 10000], [96, 10000], [64, 10000], [64, 10000], [64, 10000], [0, 10000],
                   [0, 10000], [0, 256], [0, 256], [0, 192], [0, 192], [0, 96], [0, 10000])
DATALOADER:
  FILTER_EMPTY_ANNOTATIONS: False
  NUM_WORKERS: 4
VERSION: 2
"""


def on_meta(path: Path, *opts: str) -> torch.nn.Module:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return build_model(load_config(path, ["MODEL.DEVICE", "meta", *opts]))


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_of_the_published_models(name):
    model = on_meta(COCO / f"sparsercnn.{name}.yaml")
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    num_frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert num_frozen == 222_400
    assert len(model.state_dict()) == (523 if "res50" in name else 778)


def test_unmodified_official_text_loads_and_builds(tmp_path):
    path = tmp_path / "crowdhuman.yaml"
    path.write_text(OFFICIAL)
    cfg = load_config(path)
    assert cfg.MODEL.SparseRCNN.NUM_PROPOSALS == 500 and cfg.TEST.AUG.SCALE_RANGES[-2] == [0, 96]
    assert cfg.INPUT.MAX_SIZE_TRAIN == 1500 and cfg.INPUT.MAX_SIZE_TEST == 1333
    model = on_meta(path)
    assert model.num_proposals == 500 and model.num_classes == 1
    optimizer = build_optimizer(cfg, model)
    assert {group["lr"] for group in optimizer.param_groups} == {2.5e-5}


TIMM = ("pvt_v2_b2.300pro.3x", "swin_t.100pro.3x", "mobilenetv3.100pro.3x")


@pytest.mark.parametrize("name", (*TIMM, "lsnet_t.100pro.3x", "res50.128pro.640.ema"))
def test_other_backbones_train(name):
    """Losses on a small image reach every parameter that learns."""
    if name in TIMM:
        pytest.importorskip("timm")
    opts = [
        "MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", "False", "MODEL.SparseRCNN.NUM_HEADS", "1",
        "MODEL.SparseRCNN.NUM_PROPOSALS", "4", "MODEL.SparseRCNN.DIM_DYNAMIC", "4",
        "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
        "MODEL.LSNET.SIZE", "nano",
    ]  # fmt: skip
    cfg = load_config(COCO / f"sparsercnn.{name}.yaml", opts)
    if name in TIMM[:2]:
        cfg.MODEL.TIMM.OPTIONS.depths = (1, 1, 1, 1)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    losses = model([training_item([[5.0, 5, 40, 60]], size=(64, 96)) for _ in range(2)])
    sum(losses.values()).backward()
    missing = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
