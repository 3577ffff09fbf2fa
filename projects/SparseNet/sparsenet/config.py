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
    _add_sparx_mamba(cfg)
    _add_lsnet(cfg)
    _add_timm(cfg)
    _add_neck(cfg)
    _add_solver(cfg)
    _add_augmentation(cfg)
    _add_classifier(cfg)
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
    # Weights of the losses and, where COSTS is empty, of the matcher's costs.
    node.CLASS_WEIGHT = 2.0
    node.GIOU_WEIGHT = 2.0
    node.L1_WEIGHT = 5.0
    node.DEEP_SUPERVISION = True  # losses on every stage
    node.NO_OBJECT_WEIGHT = 0.1  # background weight of the softmax variant
    node.USE_FOCAL = True  # False: softmax over NUM_CLASSES + 1
    node.ALPHA = 0.25
    node.GAMMA = 2.0
    node.PRIOR_PROB = 0.01
    # Ours. Where the first boxes and features come from: "learned" embeddings as in the paper,
    # "dense": the best locations of an objectness map over the FPN levels, or "both": half of each.
    node.PROPOSAL_INIT = "learned"
    node.DENSE_WEIGHT = 1.0  # weight of the objectness and box losses of the dense branch
    node.COSTS = ()  # (class, L1, box) weights of the matcher's costs; () takes those of the losses
    node.BOX_LOSS = "giou"  # iou (-ln IoU) | giou | diou | ciou; weighted by GIOU_WEIGHT
    node.BOX_COST = "giou"  # the same in the matcher, as 1 - similarity
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
    # "faithful": as published, for comparison; without exploration and losses on the scores.
    node.DESIGN = "corrected"  # corrected | faithful
    node.FAITHFUL = CN()  # of the faithful design only; () takes what SIZE says
    node.FAITHFUL.CHANNELS = ()  # of the four stages
    node.FAITHFUL.DEPTHS = ()  # local blocks, and as many global blocks, of the four stages
    node.FAITHFUL.LAYERS = ()  # units in each of these blocks; conv and ls only
    node.LOCAL_MODULE = "conv"  # attention (SparseFormer) | conv (SparseNet) | ls (SparseNet-LS)
    node.SIZE = "tiny"  # nano | tiny: widths, depths and heads of the four stages
    # Share of the attention windows of each stage that the local module computes; K >= 1 always.
    node.KEEP_RATIO = (0.7, 0.5, 0.3, 0.2)
    # "ratio": always that share. "threshold": the windows that score at least KEEP_THRESHOLD, as
    # many as the image asks for: at least one, and at most the share KEEP_RATIO.
    node.KEEP_MODE = "ratio"
    node.KEEP_THRESHOLD = 0.5  # a score is the expected overlap of a window with objects, 0 to 1
    # "fpn": Detectron2's, on whole maps. "sparse_fpn": the same weights, computed where windows
    # were kept; elsewhere a level repeats the next coarser one.
    node.NECK = "fpn"
    node.WINDOW_SIZE = 7  # side of an attention window in feature-map cells
    node.OUT_FEATURES = ("stage0", "stage1", "stage2", "stage3")  # strides 4, 8, 16, 32
    node.DROP_PATH_RATE = 0.0
    # Training: share of all windows added at random to the kept ones, so that every window is seen.
    node.EXPLORATION = 0.05
    node.SCORE_WEIGHT = 0.2  # window scores against the overlap of windows and objects
    node.BUDGET_WEIGHT = 0.1  # mean score against the true share of windows with objects


def _add_sparx_mamba(cfg: CN) -> None:
    """The SparX-Mamba backbone, arXiv 2409.09649."""
    cfg.MODEL.SPARX_MAMBA = CN()
    node = cfg.MODEL.SPARX_MAMBA
    node.SIZE = "tiny"  # nano (ours) | tiny | small | base
    node.OUT_FEATURES = ("stage1", "stage2", "stage3", "stage4")  # strides 4, 8, 16, 32
    node.DROP_PATH_RATE = 0.0
    # BN | SyncBN | FrozenBN: of the norms that follow convolutions. The published detectors were
    # trained with 16 images per norm (SyncBN on 8 GPUs); FrozenBN suits a few images per GPU.
    node.NORM = "BN"
    # First blocks of each stage whose activations are recomputed in backward, for memory.
    node.CHECKPOINT_BLOCKS = (0, 0, 0, 0)


def _add_lsnet(cfg: CN) -> None:
    """The LSNet backbone, arXiv 2503.23135."""
    cfg.MODEL.LSNET = CN()
    node = cfg.MODEL.LSNET
    node.SIZE = "tiny"  # nano (ours) | tiny | small | base | large | xlarge
    node.OUT_FEATURES = ("stage1", "stage2", "stage3", "stage4")  # strides 8, 16, 32, 64
    node.DROP_PATH_RATE = 0.0
    # Batch norms keep their statistics in training, as in the published detectors. False where
    # training starts from nothing.
    node.NORM_EVAL = True
    # Position biases of the last stage's attention: cells per side of the map they are stored for,
    # and what is resized for other maps: the "table" of offsets, or, as the released detectors were
    # trained, the gathered biases as an "image". Those have 14 and "image".
    node.BIAS_GRID = 4
    node.BIAS_RESIZE = "table"
    # Of build_lsnet_extra_fpn_backbone, beside p3 … p6: "p7" as the published RetinaNet, or "p2" as
    # the published Mask R-CNN.
    node.EXTRA_LEVEL = "p7"


def _add_timm(cfg: CN) -> None:
    """Backbones of timm: build_timm_backbone, build_timm_fpn_backbone."""
    cfg.MODEL.TIMM = CN()
    node = cfg.MODEL.TIMM
    node.NAME = "mobilenetv3_large_100"  # any model of timm's registry that gives maps
    node.PRETRAINED = False  # downloads timm's ImageNet weights where MODEL.WEIGHTS is empty
    node.OUT_FEATURES = ("c2", "c3", "c4", "c5")  # cn has stride 2^n
    node.FREEZE_AT = 0  # what maps of strides up to 2^n need does not learn; 0: all does
    node.NORM = ""  # "" leaves the batch norms; FrozenBN | SyncBN replaces them
    node.OPTIONS = CN(new_allowed=True)  # further arguments of the model: drop_path_rate …


def _add_neck(cfg: CN) -> None:
    """Necks: build_neck_backbone, build_timm_fpn_backbone. Widths and norms are those of FPN."""
    cfg.MODEL.NECK = CN()
    cfg.MODEL.NECK.NAME = "fpn"  # fpn | panet | bifpn
    cfg.MODEL.NECK.BOTTOM_UP = "build_resnet_backbone"  # what build_neck_backbone builds below
    cfg.MODEL.NECK.NUM_LAYERS = 3  # of a BiFPN


def _add_solver(cfg: CN) -> None:
    cfg.SOLVER.OPTIMIZER = "ADAMW"  # or "SGD"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0  # learning-rate factor of parameters named "backbone"
    # Parameters with one of these words in their name have no weight decay.
    cfg.SOLVER.NO_DECAY_NAMES = ()
    # Arithmetic of training where SOLVER.AMP.ENABLED: float16 (Detectron2's, with loss scaling;
    # GPUs only) or bfloat16 (GPUs, and CPUs that have instructions for it).
    cfg.SOLVER.AMP.PRECISION = "float16"
    cfg.SOLVER.POLY_LR_POWER = 0.9  # of LR_SCHEDULER_NAME "WarmupPolyLR", which ends at BASE_LR_END
    # Moving average of the weights: what is evaluated, and what checkpoints hold as the model.
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.9999
    cfg.SOLVER.EMA.RAMP = 2000.0  # the decay of step n is DECAY · (1 - exp(-n / RAMP))
    # "" keeps the batch norms as the model has them; FrozenBN | BN | SyncBN: all of them become
    # such, except those of frozen parts (MODEL.BACKBONE.FREEZE_AT), which stay frozen.
    cfg.MODEL.BATCH_NORM = ""


def _add_augmentation(cfg: CN) -> None:
    """Of photos and tiles; every PROB of 0 is off. Defaults are those of the unofficial port."""
    # Semantic segmentation: the largest share of one class in a crop (INPUT.CROP), as DeepLab's
    # and mmsegmentation's; and brightness, contrast, saturation of half of the images changed.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.INPUT.COLOR_DISTORTION = False
    # Side of a square, pixels, that photos are fitted into and centred in, for training and
    # evaluation, in place of MIN_SIZE_TRAIN and MIN_SIZE_TEST. 0: off.
    cfg.INPUT.LETTERBOX = 0
    cfg.INPUT.AUG = CN()
    node = cfg.INPUT.AUG
    # Objects with less of their area left, or thinner, become ignore boxes.
    node.MIN_VISIBLE = 0.2
    node.MIN_SIDE = 2.0  # pixels
    node.MAX_ASPECT = 20.0
    node.HSV = CN({"PROB": 0.0, "GAINS": (0.014, 0.68, 0.36)})  # factors in 1 ± gain
    node.BLUR = CN({"PROB": 0.0})
    node.NOISE = CN({"PROB": 0.0, "SIGMA": (1.0, 15.0)})  # grey levels
    node.CROP = CN({"PROB": 0.0, "MIN_SHARE": 0.6})  # of each side of the image
    node.AFFINE = CN({"PROB": 0.0})
    node.AFFINE.DEGREES = 10.0
    node.AFFINE.SCALE = (0.8, 1.2)
    node.AFFINE.TRANSLATE = 0.0  # ± share of the sides
    node.AFFINE.SHEAR = 0.0  # ± degrees
    node.AFFINE.PERSPECTIVE = 0.0  # ± change of depth over half the longer side, below 0.5
    # Shares of mosaics of four images and of blends of two; the rest are single images.
    node.MOSAIC = CN({"PROB": 0.0, "SCALE": (0.5, 1.5), "TRANSLATE": 0.1})
    node.MOSAIC.SIZE = 0  # side, pixels; 0 takes LETTERBOX, or the side of tiles
    node.MIXUP = CN({"PROB": 0.0, "BETA": 8.0})


def _add_classifier(cfg: CN) -> None:
    """Classification of whole photos. Defaults are LSNet-T's recipe (arXiv 2503.23135).

    Also used: MODEL.WEIGHTS, SOLVER.BASE_LR, WEIGHT_DECAY, MOMENTUM, IMS_PER_BATCH (of all
    processes), AMP, EMA, DATALOADER.NUM_WORKERS, SEED (negative: 0), OUTPUT_DIR.
    """
    cfg.CLASSIFIER = CN()
    node = cfg.CLASSIFIER
    node.MODEL = "lsnet_t"  # of timm's registry
    node.MODEL_OPTIONS = CN(new_allowed=True)  # arguments of the model, such as drop_path_rate
    node.PRETRAINED = False  # start from the weights that timm's hub has
    node.DATA_PATH = ""  # folder with train/<class>/ and val/<class>/
    node.INPUT_SIZE = 224  # side of the square input, pixels
    node.CROP_PCT = 0.875  # evaluation: centre crop of a photo with shorter side INPUT_SIZE / this
    node.EPOCHS = 300
    node.OPTIMIZER = "adamw"  # of timm
    node.LR_BATCH = 512  # SOLVER.BASE_LR is for so many photos per step and scales; 0: it does not
    node.SCHEDULE = "cosine"  # of timm, by updates
    node.WARMUP_EPOCHS = 5
    node.WARMUP_LR = 1e-6
    node.MIN_LR = 1e-5
    node.CLIP = 0.02  # limit of the gradients; 0: none
    node.CLIP_MODE = "agc"  # norm | value | agc: of units relative to their weights
    node.SMOOTHING = 0.1  # of labels
    node.AUG = CN()
    node.AUG.SCALE = (0.08, 1.0)  # share of the photo's area that a crop has
    node.AUG.FLIP_PROB = 0.5
    node.AUG.COLOR_JITTER = 0.4  # without AUTO_AUGMENT
    node.AUG.AUTO_AUGMENT = "rand-m9-mstd0.5-inc1"  # in timm's words; "": off
    node.AUG.ERASE_PROB = 0.25
    node.AUG.REPEATS = 3  # versions of a photo in an epoch, of as many fewer photos; 1: off
    node.AUG.MIXUP = 0.8  # parameters of the Beta distribution of shares; 0: off
    node.AUG.CUTMIX = 1.0
    node.AUG.MIX_PROB = 1.0  # share of batches that are mixed
    node.DISTILLATION = CN()
    node.DISTILLATION.TYPE = "none"  # none | soft | hard; needs a model with two heads
    node.DISTILLATION.TEACHER = "regnety_160.deit_in1k"  # of timm's registry
    node.DISTILLATION.TEACHER_WEIGHTS = ""  # a file; "": those of timm's hub
    node.DISTILLATION.ALPHA = 0.5  # share of the loss
    node.DISTILLATION.TEMPERATURE = 1.0


def _add_tiles(cfg: CN) -> None:
    """Training on, and detection in, tiles of images that are too large to load."""
    # Datasets to register by a name for TRAIN and TEST; datasets/README.md shows the trees.
    cfg.DATASETS.COCO_FILES = []  # [[name, json file, image folder], ...]
    cfg.DATASETS.VOC_FOLDERS = []  # [[name, folder, split or ""], ...]; Pascal VOC's xml files
    cfg.DATASETS.YOLO_FOLDERS = []  # [[name, folder or data.yaml, split or ""], ...]
    cfg.DATASETS.SEM_SEG_FOLDERS = []  # [[name, image folder, label folder], ...]
    cfg.DATASETS.ODGT_FILES = []  # [[name, odgt file, image folder], ...]; CrowdHuman's
    # Of VOC, YOLO and SEM_SEG folders, in order; () takes those of the files.
    cfg.DATASETS.CLASS_NAMES = ()
    cfg.DATASETS.ODGT_BOX = "fbox"  # fbox (full body) | vbox (visible part) | hbox (head)

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
    # Octaves over which a box outside its downsample's range loses its score to a downsample that
    # suits it better and looked there as well. 0 is a hard limit.
    node.HAND_OVER = 1.0
    # Which tiles run: "all"; "coarse_to_fine": a finer downsample runs only where the coarser ones
    # expect objects of its size; "mask": only tiles that touch SELECTION.MASK.
    node.SELECT = "all"
    node.SELECTION = CN()
    # A GeoJSON of polygons in full-image pixels, or an image of the frame's proportions that is
    # bright where to look. With "coarse_to_fine" it limits all downsamples.
    node.SELECTION.MASK = ""
    # Score, or objectness of dense proposals, from which an expected object makes a tile run.
    node.SELECTION.THRESHOLD = 0.3
    # Octaves above the lower end of OBJECT_SIZE_RANGE up to which the finer downsample is wanted.
    node.SELECTION.MARGIN = 1.0
    node.SELECTION.NEIGHBOURS = 0  # rings of tiles around a chosen one that run as well
    node.SELECTION.PROBE_SHARE = 0.01  # share of the other tiles that run, to tell what is missed
    node.SELECTION.MAX_TILES = 0  # in all, the best first; the coarsest always run; 0: no limit
    # seam | nms | nmm | cnms: how duplicates of overlapping tiles are removed; all but "seam" are
    # there for comparison.
    node.MERGE = "seam"
    node.MERGE_IOU = 0.5  # box suppression between detections of one class
    node.MERGE_CONTAINMENT = 0.7  # share of a truncated box inside a whole one that removes it
    node.MAX_PIXELS = 20_000_000_000  # larger images are refused from their header
    node.MAX_DETECTIONS = 10_000  # kept per image, best first
    # Score at which precision, recall, duplicates and counts are told.
    cfg.TEST.REPORT_THRESHOLD = 0.4
    # Log-average miss rate and Jaccard index as well, which ODGT_FILES always get.
    cfg.TEST.MISS_RATE = False
    # Which checkpoint of a folder is the best: a metric as metrics.json names them. With several
    # test datasets their names come first, as in "coco_2017_val/bbox/AP".
    cfg.TEST.BEST_METRIC = "bbox/AP"


def _add_test_time_augmentation(cfg: CN) -> None:
    cfg.TEST.AUG.MIN_SIZES = (400, 500, 600, 640, 700, 900, 1000, 1100, 1200, 1300, 1400, 1800, 800)
    cfg.TEST.AUG.CVPODS_TTA = True
    cfg.TEST.AUG.SCALE_FILTER = True
    # One (minimum, maximum) of sqrt(area), in augmented pixels, per entry of MIN_SIZES.
    cfg.TEST.AUG.SCALE_RANGES = (
        [96, 10000], [96, 10000], [64, 10000], [64, 10000], [64, 10000], [0, 10000], [0, 10000],
        [0, 256], [0, 256], [0, 192], [0, 192], [0, 96], [0, 10000],
    )  # fmt: skip
