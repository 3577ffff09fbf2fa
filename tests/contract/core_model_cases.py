"""Contract cases of structures, layers and modeling: each returns one record.

Values are JSON types or numpy arrays.
"""

import json
import zlib

import numpy as np
import torch
from contract.core_inputs import BOXES, numbers, outcome, set_weights
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d, ROIAlign, batched_nms, get_norm
from detectron2.modeling import build_backbone, detector_postprocess
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes, BoxMode, ImageList, Instances, pairwise_ioa, pairwise_iou
from torch import nn


def box_codec() -> dict:
    """Deltas of random boxes, and boxes of random deltas, clamped ones and two per box included."""
    random = np.random.RandomState(0)
    corners = random.uniform(0, 200, (2, 16, 2))
    boxes = np.concatenate([corners, corners + random.uniform(1, 300, (2, 16, 2))], axis=2)
    source, target = torch.tensor(boxes, dtype=torch.float32)
    deltas = torch.tensor(random.normal(0, 3, (16, 8)), dtype=torch.float32)
    codec = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    loose = Box2BoxTransform(weights=(1.0, 2.0, 3.0, 4.0), scale_clamp=0.5)
    flat = source.clone()
    flat[3, 2] = flat[3, 0]
    return {
        "deltas": codec.get_deltas(source, target).numpy(),
        "decoded": codec.apply_deltas(deltas, source).numpy(),
        "decoded_loose": loose.apply_deltas(deltas, source).numpy(),
        "decoded_half": codec.apply_deltas(deltas.half(), source).numpy(),
        "round_trip": codec.apply_deltas(codec.get_deltas(source, target), source).numpy(),
        "flat box": outcome(lambda: codec.get_deltas(flat, target)),
    }


def matcher() -> dict:
    """Matches and labels with and without low-quality matches, ties, and without ground truth."""
    quality = torch.tensor(np.random.RandomState(1).uniform(0, 1, (4, 12)), dtype=torch.float32)
    quality[2] *= 0.25
    quality[3, 5] = quality[3, 7] = quality[3].max()
    result = {}
    for low in (False, True):
        match = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=low)
        for name, value in (("some", quality), ("none", quality[:0])):
            matches, labels = match(value)
            result[f"{name} {low}"] = [matches.tolist(), labels.tolist(), str(labels.dtype)]
    return result


def pooler() -> dict:
    """RoI features and levels of small, large, empty, inverted and outlying boxes."""
    scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
    maps = [
        torch.tensor(numbers(f"map{i}", (2, 3, int(256 * s), int(320 * s))), dtype=torch.float32)
        for i, s in enumerate(scales)
    ]
    boxes = [Boxes(torch.tensor(BOXES)), Boxes(torch.tensor(BOXES[:3])[:, [1, 0, 3, 2]])]
    result = {}
    for kind, ratio in (("ROIAlignV2", 2), ("ROIAlign", 2), ("ROIAlignV2", 0), ("ROIPool", 0)):
        pool = ROIPooler(7, scales, ratio, kind)
        result[f"{kind} {ratio}"] = pool(maps, boxes).numpy().mean(axis=(2, 3))
    result["full"] = ROIPooler(3, scales, 2, "ROIAlignV2")(maps, boxes).numpy()
    one = ROIPooler(output_size=(2, 3), scales=(1 / 8,), sampling_ratio=1, pooler_type="ROIAlignV2")
    result["one level"] = one([maps[1]], boxes).numpy()
    none = [Boxes(torch.empty(0, 4)), Boxes(torch.empty(0, 4))]
    result["no boxes"] = list(ROIPooler(7, scales, 2, "ROIAlignV2")(maps, none).shape)
    # The last of BOXES is inverted: the square root of its area is NaN and its level undefined.
    result["levels"] = assign_boxes_to_levels([boxes[0][:-1], boxes[1]], 2, 5, 224, 4).tolist()
    result["unknown type"] = outcome(lambda: ROIPooler(7, scales, 2, "ROISomething"))
    result["not a pyramid"] = outcome(lambda: ROIPooler(7, (1 / 4, 1 / 16), 2, "ROIAlignV2"))
    result["not a power"] = outcome(lambda: ROIPooler(7, (1 / 3,), 2, "ROIAlignV2"))
    return result


def _backbone_config(name: str, depth: int, **resnets) -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    for key, value in resnets.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


def _backbones() -> dict[str, CfgNode]:
    fpn = "build_resnet_fpn_backbone"
    configs = {
        "r18_fpn": _backbone_config(fpn, 18),
        "r18_fpn_gn_avg": _backbone_config(fpn, 18, NORM="BN"),
        "r50_fpn": _backbone_config(fpn, 50, STRIDE_IN_1X1=False),
        "x50_c5": _backbone_config("build_resnet_backbone", 50, NUM_GROUPS=32, WIDTH_PER_GROUP=4),
        "r18_retinanet": _backbone_config(
            "build_retinanet_resnet_fpn_backbone", 18, OUT_FEATURES=["res3", "res4", "res5"]
        ),
    }
    configs["r18_fpn_gn_avg"].MODEL.FPN.NORM = "GN"
    configs["r18_fpn_gn_avg"].MODEL.FPN.FUSE_TYPE = "avg"
    configs["x50_c5"].MODEL.RESNETS.RES5_DILATION = 2
    configs["x50_c5"].MODEL.BACKBONE.FREEZE_AT = 0
    configs["r18_retinanet"].MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    return configs


def backbone_keys() -> dict:
    """Keys and shapes of the state_dict, trainable parameters, declared output shapes."""
    result = {}
    for name, cfg in _backbones().items():
        model = build_backbone(cfg)
        state = {key: list(value.shape) for key, value in model.state_dict().items()}
        text = json.dumps(state, sort_keys=True)
        trainable = sorted(key for key, value in model.named_parameters() if value.requires_grad)
        result[name] = {
            "number of keys": len(state),
            "crc of keys and shapes": zlib.crc32(text.encode()),
            "crc of trainable": zlib.crc32("\n".join(trainable).encode()),
            "number of trainable": len(trainable),
            "outputs": {k: [v.channels, v.stride] for k, v in model.output_shape().items()},
            "size_divisibility": model.size_divisibility,
            "padding_constraints": dict(model.padding_constraints),
        }
        if name == "r18_fpn":
            result[name]["state"] = state
    return result


def backbone_forward() -> dict:
    """Corners, mean and deviation of every map, in evaluation, with weights set by key."""
    image = torch.tensor(numbers("image", (1, 3, 64, 96)), dtype=torch.float32)
    result = {}
    for name, cfg in _backbones().items():
        if name == "r50_fpn":
            continue  # its forward pass is a golden file of its own
        model = set_weights(build_backbone(cfg)).eval()
        with torch.no_grad():
            outputs = model(image)
        for level, value in outputs.items():
            corner = value[0, :3, :2, :2].flatten().tolist()
            statistics = [value.mean().item(), value.std().item()]
            result[f"{name} {level}"] = np.array(statistics + corner)
    return result


def frozen_norms() -> dict:
    """FrozenBatchNorm2d with and without gradients, and the other norms."""
    x = torch.tensor(numbers("x", (2, 64, 3, 5)), dtype=torch.float32)
    frozen = set_weights(FrozenBatchNorm2d(64))
    graded = frozen(x.clone().requires_grad_())
    layer_norm = set_weights(get_norm("LN", 64))
    batch_norm = set_weights(nn.BatchNorm2d(64, eps=0.01)).eval()
    converted = FrozenBatchNorm2d.convert_frozen_batchnorm(nn.Sequential(batch_norm))[0]
    names = ["", "BN", "SyncBN", "FrozenBN", "GN", "LN", "What"]
    return {
        "frozen": frozen(x).numpy()[:, ::16],
        "frozen with gradient": graded.detach().numpy()[:, ::16],
        "layer norm": layer_norm(x).detach().numpy()[:, ::16],
        "converted": converted(x).numpy()[:, ::16],
        "keys": sorted(frozen.state_dict()),
        "fresh variance": FrozenBatchNorm2d(2).running_var.tolist(),
        "repr": repr(frozen),
        "norms": {name: outcome(lambda n=name: type(get_norm(n, 64)).__name__) for name in names},
    }


def layer_functions() -> dict:
    """Suppression and RoI align."""
    random = np.random.RandomState(4)
    corners = random.uniform(0, 50, (40, 2))
    boxes = torch.tensor(np.hstack([corners, corners + random.uniform(5, 40, (40, 2))]))
    scores, classes = torch.tensor(random.uniform(size=40)).float(), torch.arange(40) % 3
    feature = torch.tensor(numbers("feature", (1, 2, 12, 12)), dtype=torch.float32)
    rois = torch.tensor([[0, 1.0, 2.0, 9.0, 11.0], [0, -3.0, 4.0, 30.0, 6.0]])
    return {
        "batched_nms": batched_nms(boxes.half(), scores, classes, 0.4).tolist(),
        "batched_nms none": batched_nms(boxes[:0], scores[:0], classes[:0], 0.4).tolist(),
        "aligned": ROIAlign((2, 2), 0.5, 2)(feature, rois).numpy(),
        "not aligned": ROIAlign((2, 2), 0.5, 2, aligned=False)(feature, rois).numpy(),
        "repr": repr(ROIAlign((2, 2), 0.5, 2)),
    }


def _detections() -> Instances:
    boxes = Boxes(torch.tensor(BOXES))
    return Instances((256, 320), pred_boxes=boxes, scores=torch.linspace(0.9, 0.2, len(boxes)))


def postprocess() -> dict:
    """Scaled, clipped and dropped boxes; the input's boxes change in place."""
    detections = _detections()
    output = detector_postprocess(detections, 480, 640)
    broken = Instances((256, 320), pred_boxes=Boxes([[0, 0, float("nan"), 3]]))
    return {
        "boxes": output.pred_boxes.tensor.numpy(),
        "scores": output.scores.numpy(),
        "size": list(output.image_size),
        "input": detections.pred_boxes.tensor.numpy(),
        "nan": outcome(lambda: detector_postprocess(broken, 10, 10)),
        "no boxes": outcome(
            lambda: detector_postprocess(Instances((2, 2), scores=torch.ones(1)), 4, 4)
        ),
    }


def boxes() -> dict:
    """Boxes and BoxMode."""
    some = Boxes(torch.tensor(BOXES))
    clipped = some.clone()
    clipped.clip((200, 300))
    modes = [BoxMode.XYXY_ABS, BoxMode.XYWH_ABS]
    row = BOXES[0]
    return {
        "area": some.area().numpy(),
        "clipped": clipped.tensor.numpy(),
        "nonempty": some.nonempty().tolist(),
        "nonempty 41": some.nonempty(41).tolist(),
        "inside": some.inside_box((400, 400), 10).tolist(),
        "centers": some.get_centers().numpy(),
        "iou": pairwise_iou(some, clipped).numpy(),
        "ioa": pairwise_ioa(some, clipped).numpy(),
        "modes": {mode.name: int(mode) for mode in BoxMode},
        "convert list": BoxMode.convert(row, *modes),
        "convert tuple": repr(BoxMode.convert(tuple(row), *modes[::-1])),
        "convert array": BoxMode.convert(np.array(BOXES), *modes),
        "convert ints": repr(BoxMode.convert([1, 2, 3, 4], *modes[::-1])),
        "convert relative": outcome(lambda: BoxMode.convert(row, BoxMode.XYXY_REL, modes[0])),
        "empty": list(Boxes([]).tensor.shape),
        "double becomes": str(Boxes(torch.zeros(1, 4, dtype=torch.float64)).tensor.dtype),
        "wrong shape": outcome(lambda: Boxes(torch.zeros(2, 5))),
        "one": list(some[2].tensor.shape),
        "mask": len(some[some.nonempty()]),
        "bad index": outcome(lambda: some[torch.tensor(1), torch.tensor(2)]),
        "cat": len(Boxes.cat([some, some[1]])),
        "cat none": len(Boxes.cat([])),
        "clip infinite": outcome(lambda: Boxes([[0, 0, float("inf"), 1]]).clip((2, 2))),
        "iteration": [list(box.shape) for box in some][:1],
    }


def instances() -> dict:
    """Fields, indexing, concatenation, errors."""
    some = _detections()
    some.names = list("abcdefgh")
    small = Instances((2, 3), pred_classes=torch.tensor([5, 6]))
    return {
        "text": str(small),
        "length": len(some),
        "last": some[-1].names,
        "slice": some[2:4].names,
        "threshold": len(_detections()[some.scores > 0.5]),
        "list by mask": outcome(lambda: some[some.scores > 0.5]),
        "out of range": outcome(lambda: some[8]),
        "wrong length": outcome(lambda: some.set("x", [1])),
        "unknown field": outcome(lambda: some.nothing),
        "get unknown": outcome(lambda: some.get("nothing")),
        "has": [some.has("scores"), some.has("nothing"), "scores" in some.get_fields()],
        "iterate": outcome(lambda: list(some)),
        "length of none": outcome(lambda: len(Instances((1, 1)))),
        "cat": len(Instances.cat([some, some[:2]])),
        "cat names": Instances.cat([some[:1], some[3:5]]).names,
        "cat sizes": outcome(lambda: Instances.cat([some, small])),
        "cat none": outcome(lambda: Instances.cat([])),
        "fields": sorted(some.to("cpu").get_fields()),
        "size": list(some.image_size),
        "set size": outcome(lambda: setattr(some, "image_size", (1, 1))),
    }


def image_list() -> dict:
    """Padding."""
    images = [torch.full((3, 5, 9), 1.0), torch.full((3, 8, 4), 2.0)]

    def shape(*args, **kwargs) -> list:
        result = ImageList.from_tensors(*args, **kwargs)
        return [list(result.tensor.shape), [list(s) for s in result.image_sizes]]

    batch = ImageList.from_tensors(images, 4, pad_value=-1.0)
    return {
        "plain": shape(images),
        "divisible": shape(images, 32),
        "one": shape(images[:1], 4),
        "square": shape(images, padding_constraints={"square_size": 20}),
        "square divisible": shape(
            images, 3, padding_constraints={"square_size": 20, "size_divisibility": 16}
        ),
        "no square": shape(images, 3, padding_constraints={"square_size": 0}),
        "grey": shape([torch.zeros(4, 4)], 8),
        "sum": batch.tensor.sum().item(),
        "first": list(batch[0].shape),
        "bytes": str(ImageList.from_tensors([torch.zeros(1, 2, 2).byte()], 4).tensor.dtype),
        "none": outcome(lambda: shape([])),
        "mixed": outcome(lambda: shape([images[0], torch.zeros(1, 5, 5)])),
    }


CASES = [
    box_codec, matcher, pooler, backbone_keys, backbone_forward, frozen_norms, layer_functions,
    postprocess, boxes, instances, image_list,
]  # fmt: skip
