"""Every configuration key that this project adds to Detectron2's defaults.

Names under ``MODEL.SparseRCNN`` and ``SOLVER``, ``TEST.AUG`` are those of the official Sparse R-CNN
project, so that its YAML files run unchanged.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from sparsenet.errors import ConfigError


def load_config(config_file: str | Path | None = None, opts: Sequence[str] = ()) -> CN:
    """Detectron2's defaults, this project's keys, a YAML file, and ``KEY VALUE`` overrides.

    Args:
        config_file: YAML file; its ``_BASE_`` files are read first. None keeps the defaults.
        opts: Alternating keys and values, as on a command line.

    Raises:
        ConfigError: If the file is missing or malformed, or a key or value is unknown. The message
            names the file or the pair, and the nearest key that exists.
    """
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    if config_file:
        _merge_file(cfg, Path(config_file))
    if len(opts) % 2:
        raise ConfigError(
            f"Overrides must be KEY VALUE pairs, got {len(opts)} words: {list(opts)}."
        )
    for key, value in zip(opts[::2], opts[1::2]):
        _merge_pair(cfg, key, value)
    return cfg


def _merge_file(cfg: CN, path: Path) -> None:
    if not path.is_file():
        raise ConfigError(
            f"The config file must exist, got {str(path)!r}. See the folder configs/."
        )
    try:
        cfg.merge_from_file(str(path))
    except (KeyError, ValueError, AssertionError, OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_explain(cfg, error)}") from error


def _merge_pair(cfg: CN, key: str, value: str) -> None:
    try:
        cfg.merge_from_list([key, value])
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(f"Override {key} {value}: {_explain(cfg, error, key)}") from error


def _explain(cfg: CN, error: Exception, key: str = "") -> str:
    """What went wrong with a key, with the nearest known one where the key is unknown."""
    text = str(error).strip("'\"")
    key = key or text.rsplit(" ", 1)[-1]
    known = list(_leaf_keys(cfg))
    if key in known:
        return f"the value does not fit: {text}. Write 1.0 for a float, (1, 2) for a tuple."
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"{text}.{hint}"


def _leaf_keys(node: CN, prefix: str = "") -> Sequence[str]:
    keys: list[str] = []
    for name, value in node.items():
        keys += _leaf_keys(value, f"{prefix}{name}.") if isinstance(value, CN) else [prefix + name]
    return keys


def add_sparsenet_config(cfg: CN) -> None:
    """Adds all keys of this project to ``cfg`` in place."""
    _add_sparse_rcnn(cfg)
    _add_sparsenet_backbone(cfg)
    _add_solver(cfg)
    _add_tiles(cfg)
    _add_test_time_augmentation(cfg)


def _add_sparse_rcnn(cfg: CN) -> None:
    """Sparse R-CNN, arXiv 2011.12450: the official keys and defaults, then our own."""
    cfg.MODEL.SparseRCNN = CN()
    node = cfg.MODEL.SparseRCNN
    node.NUM_CLASSES = 80  # MODEL.ROI_HEADS.NUM_CLASSES is not used
    node.NUM_PROPOSALS = 300  # also the number of detections returned per image
    # Head: NUM_HEADS stages, each with attention, dynamic interaction and two towers.
    node.NHEADS = 8  # attention heads
    node.DROPOUT = 0.0
    node.DIM_FEEDFORWARD = 2048
    node.ACTIVATION = "relu"  # relu | gelu | glu
    node.HIDDEN_DIM = 256  # must equal MODEL.FPN.OUT_CHANNELS
    node.NUM_CLS = 1  # layers of the classification tower
    node.NUM_REG = 3  # layers of the regression tower
    node.NUM_HEADS = 6  # stages
    node.NUM_DYNAMIC = 2  # generated layers; only 2 is implemented, here and upstream
    node.DIM_DYNAMIC = 64
    # Costs of the matcher and, at the same time, weights of the losses.
    node.CLASS_WEIGHT = 2.0
    node.GIOU_WEIGHT = 2.0
    node.L1_WEIGHT = 5.0
    node.DEEP_SUPERVISION = True  # losses on every stage
    node.NO_OBJECT_WEIGHT = 0.1  # background weight of the softmax variant
    node.USE_FOCAL = True  # False: softmax over NUM_CLASSES + 1
    node.ALPHA = 0.25
    node.GAMMA = 2.0
    node.PRIOR_PROB = 0.01
    # Ours. Where the first boxes and features come from: "learned" embeddings as in the paper, or
    # "dense": the best locations of an objectness map over the FPN levels.
    node.PROPOSAL_INIT = "learned"
    node.DENSE_WEIGHT = 1.0  # weight of the objectness and box losses of the dense branch
    # Pairs of the matcher with a GIoU below it are dropped. -1 keeps all, as the paper. With dense
    # first boxes an object that none of them touches cannot be learned from, and would make some
    # box elsewhere a positive: 0 then.
    node.MATCH_MIN_GIOU = -1.0
    # A prediction that matches nothing and lies in an ignore box by at least this share of its own
    # area takes part in no classification loss.
    node.IGNORE_IOA = 0.5


def _add_sparsenet_backbone(cfg: CN) -> None:
    """The sparse-query backbone (SparseFormer / SparseNet / SparseNet-LS, corrected design)."""
    cfg.MODEL.SPARSENET = CN()
    node = cfg.MODEL.SPARSENET
    node.LOCAL_MODULE = "conv"  # attention (SparseFormer) | conv (SparseNet) | ls (SparseNet-LS)
    node.SIZE = "tiny"  # nano | tiny: widths, depths and heads of the four stages
    # Share of the attention windows of each stage that the local module computes; K >= 1 always.
    node.KEEP_RATIO = (0.7, 0.5, 0.3, 0.2)
    node.WINDOW_SIZE = 7  # side of an attention window in feature-map cells
    node.OUT_FEATURES = ("stage0", "stage1", "stage2", "stage3")  # strides 4, 8, 16, 32
    node.DROP_PATH_RATE = 0.0
    # Training: share of all windows added at random to the kept ones, so that every window is seen.
    node.EXPLORATION = 0.05
    node.SCORE_WEIGHT = 0.2  # window scores against the overlap of windows and objects
    node.BUDGET_WEIGHT = 0.1  # mean score against the true share of windows with objects


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # or "SGD"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning-rate factor of parameters named "backbone"


def _add_tiles(cfg: CN) -> None:
    """Training on, and detection in, tiles of images that are too large to load."""
    # COCO json files to register: [[name, json file, image folder], ...]
    cfg.DATASETS.COCO_FILES = []

    cfg.INPUT.TILE = CN()
    node = cfg.INPUT.TILE
    node.ENABLED = False  # train on random tiles read from the image pyramid
    node.SIZE = 256  # side of a tile, tile pixels
    # Longer side, in tile pixels, that objects should have: the downsample is drawn for it.
    node.OBJECT_SIZE_RANGE = (16.0, 160.0)
    node.EMPTY_SHARE = 0.3  # share of tiles without objects
    node.MIN_VISIBLE = 0.4  # an object whose share inside the tile is smaller becomes ignore
    node.MIN_SIZE = 4.0  # objects with a longer side below this, tile pixels, become ignore
    node.SCALE_JITTER = 0.2  # the downsample is multiplied by a factor in [1 / (1 + s), 1 + s]
    node.COLOR_JITTER = 0.2  # brightness, contrast and saturation factors in [1 - c, 1 + c]
    node.FLIP = 0.5  # probability of a horizontal flip

    cfg.TEST.TILE = CN()
    node = cfg.TEST.TILE
    node.ENABLED = False  # evaluate and detect tile by tile
    node.SIZE = 256  # side of a tile, tile pixels
    node.OVERLAP = 64  # shared by neighbours, tile pixels
    node.DOWNSAMPLES = (1,)  # full-image pixels per tile pixel; several run in one pass
    node.BATCH_SIZE = 16
    node.SCORE_THRESHOLD = 0.05  # detections below it are dropped before merging
    # Longer side, tile pixels: smaller boxes are left to a finer downsample of the run, larger
    # ones to a coarser. The finest and the coarsest keep theirs.
    node.OBJECT_SIZE_RANGE = (0.0, 1e9)
    node.MERGE_IOU = 0.5  # box suppression between detections of one class
    node.MERGE_CONTAINMENT = 0.7  # share of a truncated box inside a whole one that removes it
    node.MAX_PIXELS = 20_000_000_000  # larger images are refused from their header
    node.MAX_DETECTIONS = 10_000  # kept per image, best first
    cfg.TEST.REPORT_THRESHOLD = (
        0.4  # score at which precision, recall, duplicates and counts are told
    )


def _add_test_time_augmentation(cfg: CN) -> None:
    cfg.TEST.AUG.MIN_SIZES = (400, 500, 600, 640, 700, 900, 1000, 1100, 1200, 1300, 1400, 1800, 800)
    cfg.TEST.AUG.CVPODS_TTA = True
    cfg.TEST.AUG.SCALE_FILTER = True
    # One (minimum, maximum) of sqrt(area), in augmented pixels, per entry of MIN_SIZES.
    cfg.TEST.AUG.SCALE_RANGES = (
        [96, 10000], [96, 10000], [64, 10000], [64, 10000], [64, 10000], [0, 10000], [0, 10000],
        [0, 256], [0, 256], [0, 192], [0, 192], [0, 96], [0, 10000],
    )  # fmt: skip
