"""Contract cases of the detectors: anchors, sampling, proposals, heads and whole models.

Each returns one record of JSON types or numpy arrays.
"""

import json
import zlib

import numpy as np
import torch
from contract.core_inputs import BOXES, numbers, outcome
from contract.detector_inputs import (
    IMAGE_SIZES,
    LEVELS,
    NUM_CLASSES,
    batch,
    mask_rcnn_config,
    model_of,
    no_truth,
    retinanet_config,
    semantic_config,
    truth,
)
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator, build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

SCALARS = ("rpn/", "roi_head/", "fast_rcnn/", "mask_rcnn/", "num_pos_anchors")


def anchors() -> dict:
    """Anchors of one and of several levels, with an offset, and options broadcast to levels."""
    maps = [torch.zeros(1, 3, 4, 5), torch.zeros(1, 3, 2, 3)]
    several = DefaultAnchorGenerator(
        sizes=[[32, 64], [128]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[8, 16], offset=0.0
    )
    shifted = DefaultAnchorGenerator(sizes=[10.0, 20.5], aspect_ratios=[0.7], strides=[8, 16])
    shapes = [ShapeSpec(channels=3, stride=4 * 2**i) for i in range(5)]
    configured = build_anchor_generator(mask_rcnn_config(), shapes)
    return {
        "several 0": several(maps)[0].tensor.numpy(),
        "several 1": several(maps)[1].tensor.numpy(),
        "shifted": torch.cat([level.tensor for level in shifted(maps)]).numpy(),
        "cell": configured.generate_cell_anchors().numpy(),
        "counts": [several.num_anchors, shifted.num_cell_anchors, configured.num_anchors],
        "keys": sorted(configured.state_dict()),
        "levels differ": outcome(
            lambda: DefaultAnchorGenerator(
                sizes=[[1], [2]], aspect_ratios=[[1.0]], strides=[1, 2, 4]
            )
        ),
        "offset": outcome(
            lambda: DefaultAnchorGenerator(sizes=[1], aspect_ratios=[1], strides=[1], offset=1.0)
        ),
    }


def sampling() -> dict:
    """Draws at a seed: too few objects, too many, too little background, none."""
    random = np.random.RandomState(2)
    result = {}
    for name, shares in {"few": (0.3, 0.65, 0.05), "many": (0.1, 0.2, 0.7)}.items():
        labels = torch.tensor(random.choice([-1, 0, 2], size=60, p=shares))
        for count in (8, 40):
            torch.manual_seed(3)
            drawn = subsample_labels(labels, count, 0.25, 0)
            result[f"{name} {count}"] = [part.tolist() for part in drawn]
    result["none"] = [part.tolist() for part in subsample_labels(labels[:0], 8, 0.5, 0)]
    result["next random number"] = torch.rand(1).item()
    return result


def proposals() -> dict:
    """Selection of proposals of two levels and two images; boxes that are infinite, empty, out."""
    boxes = [torch.tensor(numbers(f"boxes {i}", (2, n, 4))).float() for i, n in ((0, 30), (1, 9))]
    boxes = [
        torch.cat([b[..., :2] * 40 + 40, b[..., :2] * 40 + 70 + 10 * b[..., 2:]], 2) for b in boxes
    ]
    logits = [torch.tensor(numbers(f"logits {i}", (2, n))).float() for i, n in ((0, 30), (1, 9))]
    options = (list(IMAGE_SIZES), 0.6, 20, 12, 1.0)
    result = {}
    for i, found in enumerate(find_top_rpn_proposals(boxes, logits, *options, True)):
        result[f"boxes {i}"] = found.proposal_boxes.tensor.numpy()
        result[f"logits {i}"] = found.objectness_logits.numpy()
    extended = add_ground_truth_to_proposals([truth(0)], [found])[0]
    result["with truth"] = extended.proposal_boxes.tensor.numpy()
    result["logits with truth"] = extended.objectness_logits.numpy()
    result["fields"] = sorted(extended.get_fields())
    boxes[0][0, logits[0][0].argmax(), 1] = float("inf")
    result["infinite in training"] = outcome(
        lambda: find_top_rpn_proposals(boxes, logits, *options, True)
    )
    found = find_top_rpn_proposals(boxes, logits, *options, False)[0]
    result["infinite"] = found.proposal_boxes.tensor.numpy()
    return result


def box_predictor() -> dict:
    """Losses and detections of the box head, both kinds of loss, boxes per class or for all."""
    rows = len(BOXES) - 2
    features = torch.tensor(numbers("features", (rows, 6))).float()
    instances = Instances((256, 320), proposal_boxes=Boxes(torch.tensor(BOXES)[:rows] + 0.5))
    instances.proposal_boxes.tensor[3, 2] += 9
    instances.gt_boxes = Boxes(torch.tensor(BOXES)[:rows] + torch.tensor([0.0, 1, 12, 7]))
    instances.gt_classes = torch.tensor([0, 4, 3, 1, 4, -1])
    result = {}
    for kind in ("smooth_l1", "giou"):
        for agnostic in (False, True):
            layers = FastRCNNOutputLayers(
                ShapeSpec(channels=6),
                box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
                num_classes=NUM_CLASSES,
                cls_agnostic_bbox_reg=agnostic,
                box_reg_loss_type=kind,
                smooth_l1_beta=0.5,
                test_score_thresh=0.1,
                loss_weight={"loss_box_reg": 2.0},
            )
            for key, value in layers.state_dict().items():
                value.copy_(torch.tensor(0.6 * numbers(key, tuple(value.shape))))
            predictions = layers(features)
            instances.gt_classes[5] = 2  # -1 has no place in a cross-entropy
            with EventStorage() as storage:
                losses = layers.losses(predictions, [instances])
            found, rows_of_found = layers.inference(predictions, [instances])
            name = f"{kind} {agnostic}"
            result[f"losses {name}"] = {key: value.item() for key, value in losses.items()}
            result[f"boxes {name}"] = found[0].pred_boxes.tensor.detach().numpy()
            result[f"scores {name}"] = found[0].scores.detach().numpy()
            result[f"classes {name}"] = found[0].pred_classes.tolist()
            result[f"rows {name}"] = rows_of_found[0].tolist()
            of_truth = layers.predict_boxes_for_gt_classes(predictions, [instances])
            result[f"of truth {name}"] = of_truth[0].detach().numpy()
    result["scalars"] = {key: value[0] for key, value in storage.latest().items()}
    boxes, scores = torch.tensor(BOXES), torch.full((len(BOXES), 3), 0.3)
    boxes[1, 2] = float("nan")
    found, _ = fast_rcnn_inference([boxes], [scores], [(200, 300)], 0.2, 0.5, 4)
    result["nan"] = [found[0].pred_boxes.tensor.tolist(), found[0].pred_classes.tolist()]
    no_layers = {"conv_dims": [], "fc_dims": []}
    result["no layers"] = outcome(lambda: FastRCNNConvFCHead(ShapeSpec(3, 7, 7), **no_layers))
    convs = FastRCNNConvFCHead(ShapeSpec(3, 7, 7), conv_dims=[4], fc_dims=[])
    shape = convs.output_shape
    result["convolutions only"] = [shape.channels, shape.height, shape.width]
    return result


def _configs() -> dict:
    configs = {
        "mask_rcnn": mask_rcnn_config(),
        "mask_rcnn_other": mask_rcnn_config(),
        "retinanet": retinanet_config(),
        "semantic": semantic_config(),
        "proposals": mask_rcnn_config(),
    }
    model = configs["mask_rcnn_other"].MODEL
    model.RPN.CONV_DIMS = [-1, 8]
    model.RPN.BBOX_REG_LOSS_TYPE = "giou"
    model.RPN.BOUNDARY_THRESH = 0
    model.RPN.LOSS_WEIGHT, model.RPN.BBOX_REG_LOSS_WEIGHT = 2.0, 0.5
    model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    model.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = True
    model.ROI_BOX_HEAD.NORM = model.ROI_MASK_HEAD.NORM = "LN"
    model.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    model.ROI_HEADS.PROPOSAL_APPEND_GT = False
    configs["proposals"].MODEL.META_ARCHITECTURE = "ProposalNetwork"
    return configs


def model_keys() -> dict:
    """Keys and shapes of the state_dict; in full for what is behind the backbone."""
    result = {}
    for name, cfg in _configs().items():
        state = {k: list(v.shape) for k, v in build_model(cfg).state_dict().items()}
        text = json.dumps(state, sort_keys=True)
        result[name] = {
            "crc of keys and shapes": zlib.crc32(text.encode()),
            "behind the backbone": {
                k: v for k, v in sorted(state.items()) if not k.startswith("backbone.")
            },
        }
    return result


def initial_statistics() -> dict:
    """Deviations and biases of fresh predictors, which have fixed scales."""
    torch.manual_seed(0)
    models = {name: build_model(cfg) for name, cfg in _configs().items()}
    names = {
        "mask_rcnn": "proposal_generator.rpn_head.anchor_deltas roi_heads.box_predictor.cls_score",
        "retinanet": "head.cls_score head.bbox_pred",
    }
    result = {}
    for name, layers in names.items():
        for layer in layers.split():
            module = models[name].get_submodule(layer)
            result[f"{name} {layer}"] = [
                round(module.weight.std().item(), 2), module.bias[0].item()
            ]  # fmt: skip
    return result


def training() -> dict:
    """Losses, gradients and logged numbers of one step, at a seed."""
    result = {}
    variants = [(name, {}) for name in _configs()]
    variants += [
        ("mask_rcnn", {"mask_format": "bitmask"}),
        ("mask_rcnn", {"is_second_empty": True}),
    ]
    variants += [("retinanet", {"is_second_empty": True})]
    for name, options in variants:
        model = model_of(_configs()[name]).train()
        torch.manual_seed(7)
        with EventStorage() as storage:
            losses = model(batch(**options))
            sum(losses.values()).backward()
            again = model(batch(**options))  # RetinaNet's normaliser moves
        label = " ".join([name, *options])
        gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        result[f"{label} losses"] = {k: v.item() for k, v in sorted(losses.items())}
        result[f"{label} again"] = {k: v.item() for k, v in sorted(again.items())}
        result[f"{label} gradient"] = torch.stack(gradients).norm().item()
        logged = {k: v[0] for k, v in storage.latest().items() if k.startswith(SCALARS)}
        result[f"{label} logged"] = dict(sorted(logged.items()))
    return result


def inference() -> dict:
    """Detections, proposals and semantic scores in the frame of the output."""
    result = {}
    for name, cfg in _configs().items():
        model = model_of(cfg).eval()
        with torch.no_grad():
            outputs = model(batch())
        for i, output in enumerate(outputs):
            result |= {f"{name} {i} {k}": v for k, v in _described(output).items()}
    model = model_of(mask_rcnn_config()).eval()
    given = Instances(
        IMAGE_SIZES[0], pred_boxes=truth(0).gt_boxes, pred_classes=torch.tensor([0, 1, 2])
    )
    with torch.no_grad():
        raw = model.inference(batch()[:1], [given], do_postprocess=False)[0]
    for name in ("retinanet", "mask_rcnn"):
        cfg = _configs()[name]
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.99
        with torch.no_grad():
            output = model_of(cfg).eval()(batch()[:1])[0]
        result |= {f"{name} nothing {k}": v for k, v in _described(output).items()}
    result["given boxes"] = raw.pred_masks[:, 0].mean(dim=2).numpy()
    return result


def _described(output: dict) -> dict:
    if "sem_seg" in output:
        scores = output["sem_seg"]
        return {"shape": list(scores.shape), "scores": scores[:, ::24, ::24].numpy()}
    found = output.get("instances", output.get("proposals"))
    fields = found.get_fields()
    boxes = fields["pred_boxes" if "pred_boxes" in fields else "proposal_boxes"].tensor
    described = {"fields": sorted(fields), "size": list(found.image_size), "boxes": boxes.numpy()}
    if "scores" in fields:
        described["scores"] = found.scores.numpy()
        described["classes"] = found.pred_classes.tolist()
    if "pred_masks" in fields:
        # Megapixels: a pixel at the threshold may fall to either side on another processor.
        described["areas of masks"] = (found.pred_masks.sum(dim=(1, 2)) / 1e6).numpy()
        described["type of masks"] = [str(found.pred_masks.dtype), *found.pred_masks.shape]
    return described


def heads_on_no_truth() -> dict:
    """Proposals drawn where there are no objects, and which fields they get."""
    model = model_of(mask_rcnn_config()).train()
    candidates = Instances(IMAGE_SIZES[1], proposal_boxes=Boxes(torch.tensor(BOXES)[:5]))
    candidates.objectness_logits = torch.zeros(5)
    heads = model.roi_heads
    result = {}
    for name, target in (("none", no_truth(1)), ("some", truth(1))):
        torch.manual_seed(1)
        with EventStorage():
            drawn = heads.label_and_sample_proposals([candidates], [target])[0]
        result[name] = [sorted(drawn.get_fields()), drawn.gt_classes.tolist()]
    result["levels"] = LEVELS
    return result


CASES = [
    anchors, sampling, proposals, box_predictor, model_keys, initial_statistics, training,
    inference, heads_on_no_truth,
]  # fmt: skip
