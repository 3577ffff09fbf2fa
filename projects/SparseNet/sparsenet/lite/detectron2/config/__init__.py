"""Stands in for detectron2.config: has CfgNode, get_cfg and configurable; lacks LazyConfig."""

from detectron2._lacking import package_getattr
from detectron2.config.config import CfgNode, configurable, get_cfg, global_cfg, set_global_cfg

__all__ = ["CfgNode", "configurable", "get_cfg", "global_cfg", "set_global_cfg"]

__getattr__ = package_getattr(__name__)
