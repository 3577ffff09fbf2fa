"""The active Detectron2's detectors, real or lite, do what the real ones did when recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import detector_cases, mask_cases
from contract.active import lite_only
from contract.detector_inputs import batch, mask_rcnn_config, retinanet_config
from contract.record_detectors import MODULES
from contract.signatures import public_names
from contract.test_contract_core import assert_same
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.utils.events import EventStorage

RECORDS = Path(__file__).parent / "records"
VALUES = json.loads((RECORDS / "detectors.json").read_text())
SIGNATURES = json.loads((RECORDS / "detector_signatures.json").read_text())
ARRAYS = np.load(RECORDS / "detectors.npz")


@pytest.mark.parametrize(
    "case", detector_cases.CASES + mask_cases.CASES, ids=lambda case: case.__name__
)
def test_equals_the_record(case):
    actual, name = case(), case.__name__
    arrays = {key: value for key, value in actual.items() if isinstance(value, np.ndarray)}
    values = {key: value for key, value in actual.items() if key not in arrays}
    assert_same(json.loads(json.dumps(values)), VALUES[name], name)
    recorded = {key.split("/", 1)[1] for key in ARRAYS.files if key.startswith(f"{name}/")}
    assert set(arrays) == recorded
    for key, value in arrays.items():
        expected = ARRAYS[f"{name}/{key}"]
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=f"{name}/{key}")


@pytest.mark.parametrize("module", MODULES)
def test_signatures_are_the_recorded_ones(module):
    recorded = SIGNATURES[module]
    for name, found in json.loads(json.dumps(public_names(f"detectron2.{module}"))).items():
        assert name in recorded, f"{module}.{name} does not exist in the real package"
        if not isinstance(found, dict):
            assert found == recorded[name], f"{module}.{name}"
            continue
        for method, signature in found.items():
            where = f"{module}.{name}.{method}"
            assert method in recorded[name], f"{where} does not exist in the real package"
            assert without_addresses(signature) == without_addresses(recorded[name][method]), where


def without_addresses(signature):
    """Defaults that are functions carry an address in their text."""
    return signature if signature is None else [str(part).split(" at 0x")[0] for part in signature]


def test_pictures_of_the_training_go_to_the_storage():
    cfg = mask_rcnn_config()
    model = build_model(cfg).train()
    model.vis_period, model.input_format = 1, "BGR"
    with EventStorage() as storage:
        model(batch())
    assert len(storage._vis_data) == 1


def test_training_needs_truth():
    model = build_model(mask_rcnn_config()).train()
    inputs = [{"image": item["image"]} for item in batch()]
    with pytest.raises(AssertionError):
        model(inputs)
    with pytest.raises(AssertionError):
        build_model(retinanet_config()).train()(inputs)


@lite_only
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads"),
        ("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        ("MODEL.KEYPOINT_ON", True),
        ("MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", ""),
    ],
)
def test_lite_refuses_what_it_lacks(key, value):
    cfg = mask_rcnn_config()
    cfg.merge_from_list([key, value])
    with pytest.raises(NotImplementedError, match=r"sparsenet\[detectron2\]"):
        build_model(cfg)


@lite_only
def test_lite_refuses_options_of_losses_and_pictures():
    cfg = mask_rcnn_config()
    cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = "ciou"
    model = build_model(cfg).train()
    with EventStorage(), pytest.raises(NotImplementedError, match="ciou"):
        model(batch())
    cfg = retinanet_config()
    cfg.MODEL.RETINANET.NORM = "BN"
    with pytest.raises(NotImplementedError, match="norm 'BN'"):
        build_model(cfg)
    layers = FastRCNNOutputLayers(
        4, box2box_transform=Box2BoxTransform((1.0,) * 4), num_classes=2, box_reg_loss_type="other"
    )
    with pytest.raises(ValueError, match="other"):
        boxes = torch.tensor([[0.0, 0, 4, 4]])
        layers.box_reg_loss(boxes, boxes, torch.zeros(1, 8), torch.tensor([0]))


def test_the_default_config_builds_what_it_names_or_says_why_not():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    with pytest.raises(KeyError):  # its backbone is a plain ResNet, without p3 ... p7
        build_model(cfg)
