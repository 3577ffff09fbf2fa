"""Any registered backbone with any neck: ``build_neck_backbone``."""

from itertools import pairwise

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool

from sparsenet.errors import ConfigError
from sparsenet.modeling.neck import BiFPN, PANet

NECKS = ("fpn", "panet", "bifpn")
NUM_LAYERS = 3  # the default of the configuration


@BACKBONE_REGISTRY.register()
def build_neck_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Builds the backbone ``MODEL.NECK.BOTTOM_UP`` below the neck ``MODEL.NECK.NAME``.

    Raises:
        ConfigError: If there is no such backbone or neck, or it has none of the maps.
    """
    name = cfg.MODEL.NECK.BOTTOM_UP
    if name not in BACKBONE_REGISTRY or name == build_neck_backbone.__name__:
        known = sorted(key for key, _ in BACKBONE_REGISTRY)
        raise ConfigError(
            "MODEL.NECK.BOTTOM_UP must be a registered backbone without a neck, got "
            f"{name!r}. Registered: {', '.join(known)}."
        )
    return add_neck(cfg, BACKBONE_REGISTRY.get(name)(cfg, input_shape))


def add_neck(cfg: CfgNode, bottom_up: Backbone) -> Backbone:
    """The backbone below the neck of ``MODEL.NECK`` and ``MODEL.FPN``.

    All its maps are taken where ``MODEL.FPN.IN_FEATURES`` is empty. A map of stride 2^n becomes pn;
    the coarsest is pooled to one level more.

    Raises:
        ConfigError: If there is no such neck, it has no such option, or the backbone has none of
            the maps.
    """
    node, shapes = cfg.MODEL.FPN, bottom_up.output_shape()
    in_features = list(node.IN_FEATURES) or list(shapes)
    strides = [shapes[name].stride for name in in_features if name in shapes]
    if len(strides) < max(2, len(in_features)) or any(
        coarse != 2 * fine for fine, coarse in pairwise(strides)
    ):
        found = ", ".join(f"{name} (stride {shape.stride})" for name, shape in shapes.items())
        raise ConfigError(
            "MODEL.FPN.IN_FEATURES must name two or more maps of the backbone, each of twice the "
            f"stride before, got {in_features}. There are {found}."
        )
    _require_no_idle_options(cfg)
    options = {"norm": node.NORM}
    if cfg.MODEL.NECK.NAME == "bifpn":
        options["num_layers"] = cfg.MODEL.NECK.NUM_LAYERS
        return BiFPN(bottom_up, in_features, node.OUT_CHANNELS, **options)
    options["fuse_type"] = node.FUSE_TYPE
    if cfg.MODEL.NECK.NAME == "panet":
        return PANet(bottom_up, in_features, node.OUT_CHANNELS, **options)
    if cfg.MODEL.NECK.NAME == "fpn":
        top_block = LastLevelMaxPool()
        top_block.in_feature = f"p{strides[-1].bit_length() - 1}"
        return FPN(bottom_up, in_features, node.OUT_CHANNELS, top_block=top_block, **options)
    raise ConfigError(
        f"MODEL.NECK.NAME must be one of {', '.join(NECKS)}, got {cfg.MODEL.NECK.NAME!r}."
    )


def _require_no_idle_options(cfg: CfgNode) -> None:
    """Raises ConfigError for a value, other than the default, of an option of other necks."""
    is_bifpn = cfg.MODEL.NECK.NAME == "bifpn"
    if is_bifpn and cfg.MODEL.FPN.FUSE_TYPE != "sum":
        raise ConfigError(
            "MODEL.FPN.FUSE_TYPE must be sum for a bifpn, which weights the maps by itself, got "
            f"{cfg.MODEL.FPN.FUSE_TYPE!r}."
        )
    if not is_bifpn and cfg.MODEL.NECK.NUM_LAYERS != NUM_LAYERS:
        raise ConfigError(
            f"MODEL.NECK.NUM_LAYERS is of a bifpn alone and must be {NUM_LAYERS} for other necks, "
            f"got {cfg.MODEL.NECK.NUM_LAYERS} with MODEL.NECK.NAME {cfg.MODEL.NECK.NAME!r}."
        )
