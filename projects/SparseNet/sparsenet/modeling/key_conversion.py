"""Weights of other projects under the names of this one: ``tools/convert_checkpoint.py --from``.

A conversion knows names and layouts, not the model: the report of loading the result tells what a
model is still missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsenet.errors import CheckpointError
from sparsenet.modeling.backbone.lsnet_weights import add_missing_branches
from sparsenet.modeling.mmdet_keys import DETECTOR_PARTS, detector_name

# Computed from the configuration, here and there.
_CONSTANTS = (".relative_position_index", ".attn_mask")
# Where Sparse R-CNN keeps its parts.
_SPARSE_RCNN_PARTS = ("backbone.", "head.", "init_proposal_", "criterion.")
_WHOLE_DETECTORS = (*DETECTOR_PARTS, *_SPARSE_RCNN_PARTS)


@dataclass(frozen=True)
class Conversion:
    """What became of a state dict.

    Args:
        state: The weights under this project's names.
        unused: Keys that have no place in a backbone, such as those of a classifier.
    """

    state: dict[str, Tensor]
    unused: tuple[str, ...]


def convert_state(state: Mapping[str, Tensor], source: str, *, prefix: str = "") -> Conversion:
    """Renames, and where needed re-orders, the weights of another project.

    Args:
        state: Its state dict.
        source: A key of ``CONVERSIONS``.
        prefix: Put before each name of a backbone: "backbone.bottom_up." for a detector with FPN.

    Raises:
        CheckpointError: If the source is unknown or no key has the form that it writes.
    """
    if source not in CONVERSIONS:
        raise CheckpointError(
            f"The source must be one of {', '.join(CONVERSIONS)}; got {source!r}."
        )
    converted, unused = CONVERSIONS[source](state)
    if not converted:
        raise CheckpointError(
            f"The weights must have the keys that {source!r} writes, found {list(state)[:5]}. "
            f"Known sources: {', '.join(CONVERSIONS)}."
        )
    named = {
        key if key.startswith(_WHOLE_DETECTORS) else prefix + key: value
        for key, value in converted.items()
    }
    return Conversion(named, tuple(unused))


def _from_sparseformer(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Backbones in the original names, alone or in a detector; heads and necks are not used.

    Files that say "layers" where the backbone says "stages" have Swin's order of columns in their
    down-sampling, which the original code, too, changes when it loads them.
    """
    converted, unused = {}, []
    for key, value in state.items():
        name = key.removeprefix("backbone.")
        if name.startswith("layers."):
            name = name.replace("layers.", "stages.", 1)
            value = _to_unfold_order(value) if ".downsample." in name else value
        if name.endswith(_CONSTANTS):
            continue
        if re.match(r"(patch_embed|stages\.\d+|norm\d)\.", name):
            converted[name] = value
        else:
            unused.append(key)
    return converted, unused


# Names of blocks in timm and torchvision -> ours.
_SWIN_BLOCK = {
    "norm1.": "norm1.",
    "attn.qkv.": "attn.w_msa.qkv.",
    "attn.relative_position_bias_table": "attn.w_msa.relative_position_bias_table",
    "attn.proj.": "attn.w_msa.proj.",
    "norm2.": "norm2.",
    "mlp.fc1.": "ffn.layers.0.0.",
    "mlp.0.": "ffn.layers.0.0.",
    "mlp.fc2.": "ffn.layers.1.",
    "mlp.3.": "ffn.layers.1.",
}
_SWIN_STEM = {
    "features.0.0.": "patch_embed.projection.",
    "features.0.2.": "patch_embed.norm.",
    "patch_embed.proj.": "patch_embed.projection.",
    "patch_embed.norm.": "patch_embed.norm.",
}


def _from_swin(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """An ImageNet Swin of torchvision, timm or its authors, for the faithful attention form.

    The local blocks take Swin's blocks; the global blocks take the same without position biases.
    The score nets, and the norms of other outputs than the last, have no counterpart.
    """
    if any(key.endswith(".logit_scale") for key in state):
        raise CheckpointError(
            "The weights must be those of Swin, these are of Swin V2, whose blocks differ."
        )
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    stages = [int(m[1]) for key in state if (m := re.match(r"layers\.(\d+)\.downsample\.", key))]
    first_merging = min(stages, default=0)  # timm merges before a stage, the authors after it
    depth = max((_swin_stage(key) for key in state), default=0)
    converted, unused = {}, []
    for key, value in state.items():
        if key.endswith(_CONSTANTS):
            continue
        name = _swin_name(key, first_merging, depth)
        if name is None:
            unused.append(key)
            continue
        converted[name] = _to_unfold_order(value) if ".downsample." in name else value
        if ".local_blocks." in name and not name.endswith("_bias_table"):
            twin = name.replace(".local_blocks.", ".global_blocks.").replace(".w_msa.", ".")
            converted[twin] = value
    return converted, unused


def _swin_stage(key: str) -> int:
    """Stage of a block's key; 0 for others."""
    if match := re.match(r"layers\.(\d+)\.blocks\.", key):
        return int(match[1])
    match = re.match(r"features\.(\d+)\.\d+\.norm1\.", key)
    return (int(match[1]) - 1) // 2 if match else 0


def _swin_name(key: str, first_merging: int, last_stage: int) -> str | None:
    """Our name of a key of Swin's; None where there is none."""
    if stem := _replace_start(key, _SWIN_STEM):
        return stem
    if key.startswith("norm."):
        return f"norm{last_stage}." + key.removeprefix("norm.")
    if match := re.match(r"layers\.(\d+)\.downsample\.(.+)", key):
        return f"stages.{int(match[1]) - first_merging}.downsample.{match[2]}"
    if match := re.match(r"features\.(\d+)\.((?:reduction|norm)\..+)", key):
        return f"stages.{int(match[1]) // 2 - 1}.downsample.{match[2]}"
    if match := re.match(r"(?:layers\.(\d+)\.blocks|features\.(\d+))\.(\d+)\.(.+)", key):
        stage = int(match[1]) if match[1] else (int(match[2]) - 1) // 2
        name = _replace_start(match[4], _SWIN_BLOCK)
        return name and f"stages.{stage}.local_blocks.{match[3]}.{name}"
    return None


def _replace_start(name: str, table: Mapping[str, str]) -> str | None:
    """``name`` with its start replaced by the table; None where no entry fits."""
    old = next((start for start in table if name.startswith(start)), None)
    return None if old is None else table[old] + name.removeprefix(old)


def _to_unfold_order(value: Tensor) -> Tensor:
    """Columns (or entries) of a down-sampling: Swin's (x, y, channel) to (channel, y, x)."""
    parts = value.unflatten(-1, (2, 2, -1))  # (..., x, y, C)
    return parts.transpose(-3, -1).flatten(-3).contiguous()  # (..., C·y·x)


def _from_sparx(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """SparX-Mamba, whose names are ours: a classifier, a backbone, or a Mask R-CNN of mmdet."""
    converted, unused = {}, []
    for key, value in state.items():
        name = key.removeprefix("backbone.")
        if re.match(r"(patch_embed|layers\.\d+|norm\.\d)\.", name):
            converted[name] = value
        elif detector := detector_name(key):
            converted[detector] = value
        else:
            unused.append(key)
    return converted, unused


# Names of torchvision's ResNets -> Detectron2's, in this order.
_RESNET_NAMES = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
)


def _from_torchvision(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """A ResNet or ResNeXt of torchvision for Detectron2's, with ``STRIDE_IN_1X1: False``.

    It was trained on RGB, standardised by ``PIXEL_MEAN`` and ``PIXEL_STD`` of ImageNet.
    """
    converted, unused = {}, []
    for key, value in state.items():
        if key.endswith(".num_batches_tracked"):
            continue  # a count of training steps; frozen norms have none
        if not re.match(r"(conv1|bn1|layer\d)\.", key):
            unused.append(key)
            continue
        name = key
        for pattern, replacement in _RESNET_NAMES:
            name = re.sub(pattern, replacement, name)
        converted[name] = value
    return converted, unused


def _from_lsnet(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """LSNet, whose names are ours: the trunk of a classifier, or of a detector of mmdet.

    Biases keep their grid, 4 cells per side in classifiers, 14 in detectors: MODEL.LSNET.BIAS_GRID.
    """
    names = {key: key.removeprefix("backbone.") for key in state}
    trunk = {
        name: state[key]
        for key, name in names.items()
        if re.match(r"(patch_embed\.\d|blocks\d\.\d+)\.", name)
    }
    return add_missing_branches(trunk), [key for key in state if names[key] not in trunk]


def _from_sparsercnn(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The official Sparse R-CNN, whose names are ours: nothing changes."""
    converted = {key: value for key, value in state.items() if key.startswith(_SPARSE_RCNN_PARTS)}
    is_known = any(key.startswith("head.head_series.") for key in converted)
    return (converted if is_known else {}), [key for key in state if key not in converted]


Converter = Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], list[str]]]
CONVERSIONS: dict[str, Converter] = {
    "lsnet": _from_lsnet,
    "sparseformer": _from_sparseformer,
    "sparsercnn": _from_sparsercnn,
    "sparx": _from_sparx,
    "swin": _from_swin,
    "torchvision": _from_torchvision,
}
