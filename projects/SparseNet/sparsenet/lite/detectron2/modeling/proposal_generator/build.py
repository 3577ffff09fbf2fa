"""Stands in for detectron2.modeling.proposal_generator.build: has the registry and its builder;
lacks precomputed proposals."""

from detectron2._lacking import lacks
from detectron2.utils.registry import Registry

PROPOSAL_GENERATOR_REGISTRY = Registry("PROPOSAL_GENERATOR")  # name -> class of (cfg, shapes)


def build_proposal_generator(cfg, input_shape):
    """Returns the module named by MODEL.PROPOSAL_GENERATOR.NAME for {feature name: ShapeSpec}."""
    name = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if name == "PrecomputedProposals":
        raise lacks("MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals")
    return PROPOSAL_GENERATOR_REGISTRY.get(name)(cfg, input_shape)
