"""Stands in for detectron2.utils.registry: has Registry; lacks locate."""

from fvcore.common.registry import Registry

__all__ = ["Registry"]
