"""LSNet with the feature pyramid of its published detectors: ``build_lsnet_extra_fpn_backbone``."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from sparsenet.errors import ConfigError
from sparsenet.modeling.backbone.lsnet import LSNet
from sparsenet.modeling.neck import LSNetFPN


@BACKBONE_REGISTRY.register()
def build_lsnet_extra_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LSNetFPN:
    """Builds p3 … p6, and p2 or p7 by ``MODEL.LSNET.EXTRA_LEVEL``.

    Raises:
        ConfigError: If ``MODEL.FPN`` asks for norms or means, which the published detectors lack.
    """
    node = cfg.MODEL.FPN
    if node.NORM or node.FUSE_TYPE != "sum":
        raise ConfigError(
            "Under build_lsnet_extra_fpn_backbone MODEL.FPN.NORM must be empty and FUSE_TYPE sum, "
            f"got {node.NORM!r} and {node.FUSE_TYPE!r}. build_neck_backbone takes others."
        )
    return LSNetFPN(
        LSNet(cfg, input_shape),
        list(cfg.MODEL.FPN.IN_FEATURES) or list(cfg.MODEL.LSNET.OUT_FEATURES),
        cfg.MODEL.FPN.OUT_CHANNELS,
        extra_level=cfg.MODEL.LSNET.EXTRA_LEVEL,
    )
