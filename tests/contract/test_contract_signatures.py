"""Names and signatures of the active Detectron2 are those of the real one, nothing added."""

import json
from pathlib import Path

import pytest
from contract.signatures import MODULES, public_names

import sparsenet  # noqa: F401  makes detectron2 importable

RECORDS = json.loads((Path(__file__).parent / "records" / "core_signatures.json").read_text())

# Used by this project, or by the projects whose YAML and code must run here: all must be there.
REQUIRED = {
    "detectron2.checkpoint": ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"],
    "detectron2.config": ["CfgNode", "configurable", "get_cfg", "global_cfg", "set_global_cfg"],
    "detectron2.layers": [
        "BatchNorm2d", "CNNBlockBase", "Conv2d", "ConvTranspose2d", "FrozenBatchNorm2d", "Linear",
        "ROIAlign", "ShapeSpec", "batched_nms", "cat", "get_norm", "interpolate", "nonzero_tuple",
    ],
    "detectron2.layers.batch_norm": ["LayerNorm"],
    "detectron2.modeling": [
        "BACKBONE_REGISTRY", "Backbone", "FPN", "META_ARCH_REGISTRY", "ResNet", "build_backbone",
        "build_model", "build_resnet_backbone", "detector_postprocess",
    ],
    "detectron2.modeling.backbone.fpn": [
        "FPN", "LastLevelMaxPool", "LastLevelP6P7", "build_resnet_fpn_backbone",
    ],
    "detectron2.modeling.backbone.resnet": ["BasicBlock", "BasicStem", "BottleneckBlock", "ResNet"],
    "detectron2.modeling.box_regression": ["Box2BoxTransform"],
    "detectron2.modeling.matcher": ["Matcher"],
    "detectron2.modeling.poolers": ["ROIPooler", "assign_boxes_to_levels"],
    "detectron2.modeling.postprocessing": ["detector_postprocess"],
    "detectron2.solver": [
        "LRMultiplier", "WarmupParamScheduler", "build_lr_scheduler", "build_optimizer",
    ],
    "detectron2.solver.build": ["get_default_optimizer_params", "maybe_add_gradient_clipping"],
    "detectron2.structures": [
        "BoxMode", "Boxes", "ImageList", "Instances", "pairwise_ioa", "pairwise_iou",
    ],
    "detectron2.structures.boxes": ["pairwise_intersection"],
    "detectron2.utils.comm": ["all_gather", "gather", "get_rank", "is_main_process", "synchronize"],
    "detectron2.utils.env": ["seed_all_rng"],
    "detectron2.utils.events": [
        "CommonMetricPrinter", "EventStorage", "EventWriter", "JSONWriter", "TensorboardXWriter",
        "get_event_storage",
    ],
    "detectron2.utils.file_io": ["PathManager"],
    "detectron2.utils.logger": [
        "create_small_table", "log_every_n_seconds", "log_first_n", "setup_logger",
    ],
    "detectron2.utils.registry": ["Registry"],
    "detectron2.utils.visualizer": ["ColorMode", "VisImage", "Visualizer"],
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_signatures_are_the_recorded_ones(module):
    recorded = RECORDS[module]
    for name, found in public_names(module).items():
        assert name in recorded, f"{module}.{name} does not exist in the real package"
        if not isinstance(found, dict):
            assert found == recorded[name], f"{module}.{name}"
            continue
        for method, signature in found.items():
            where = f"{module}.{name}.{method}"
            assert method in recorded[name], f"{where} does not exist in the real package"
            assert signature == recorded[name][method], where


@pytest.mark.parametrize("module", REQUIRED)
def test_required_names_exist(module):
    missing = set(REQUIRED[module]) - set(public_names(module))
    assert not missing, f"{module} lacks {sorted(missing)}"
