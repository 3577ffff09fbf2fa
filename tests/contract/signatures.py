"""Reads the public names and signatures of modules; shared by recorder and test."""

import importlib
import inspect
import re
from typing import Any

MODULES = [
    "detectron2.checkpoint",
    "detectron2.checkpoint.c2_model_loading",
    "detectron2.checkpoint.detection_checkpoint",
    "detectron2.config",
    "detectron2.config.config",
    "detectron2.layers",
    "detectron2.layers.batch_norm",
    "detectron2.layers.blocks",
    "detectron2.layers.nms",
    "detectron2.layers.roi_align",
    "detectron2.layers.shape_spec",
    "detectron2.layers.wrappers",
    "detectron2.modeling",
    "detectron2.modeling.backbone",
    "detectron2.modeling.backbone.backbone",
    "detectron2.modeling.backbone.build",
    "detectron2.modeling.backbone.fpn",
    "detectron2.modeling.backbone.resnet",
    "detectron2.modeling.box_regression",
    "detectron2.modeling.matcher",
    "detectron2.modeling.meta_arch",
    "detectron2.modeling.meta_arch.build",
    "detectron2.modeling.poolers",
    "detectron2.modeling.postprocessing",
    "detectron2.solver",
    "detectron2.solver.build",
    "detectron2.solver.lr_scheduler",
    "detectron2.structures",
    "detectron2.structures.boxes",
    "detectron2.structures.image_list",
    "detectron2.structures.instances",
    "detectron2.utils.comm",
    "detectron2.utils.env",
    "detectron2.utils.events",
    "detectron2.utils.file_io",
    "detectron2.utils.logger",
    "detectron2.utils.registry",
    "detectron2.utils.visualizer",
]


def parameters(function: Any) -> list[list[str]] | None:
    """[name, kind, default] of each parameter; None where Python cannot tell."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    empty = inspect.Parameter.empty
    return [
        [p.name, p.kind.name, "" if p.default is empty else repr(p.default)]
        for p in signature.parameters.values()
    ]


def describe(value: Any) -> Any:
    """A function's parameters; a class's by method, properties as "property"; else the type."""
    if inspect.isclass(value):
        methods = {"__init__": parameters(value)}
        ours = [c for c in value.__mro__ if c.__module__.startswith(("detectron2.", "fvcore."))]
        for name in sorted({n for c in ours for n in vars(c) if not n.startswith("_")}):
            member = inspect.getattr_static(value, name)
            if isinstance(member, property):
                methods[name] = "property"
            elif inspect.isroutine(getattr(value, name)):
                methods[name] = parameters(getattr(value, name))
        return methods
    return parameters(value) if inspect.isfunction(value) else type(value).__name__


def public_names(module_name: str) -> dict[str, Any]:
    """What users can import from a module: its own public names and what its package gathers."""
    module = importlib.import_module(module_name)
    is_package = hasattr(module, "__path__")
    names = {}
    for name, value in vars(module).items():
        if name.startswith("_") or inspect.ismodule(value):
            continue
        owner = getattr(value, "__module__", None)
        is_own = owner == module_name or name in getattr(module, "__all__", ())
        if is_own or (is_package and re.match(r"detectron2\.(?!_)", str(owner))):
            names[name] = describe(value)
    return names
