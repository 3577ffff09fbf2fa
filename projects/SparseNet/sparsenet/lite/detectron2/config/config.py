"""Stands in for detectron2.config.config: has YAML configs with _BASE_ and VERSION, @configurable;
lacks files older than VERSION 2, YAML tags that run code, and omegaconf."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any

import yaml
from detectron2._lacking import lacks
from detectron2.utils.file_io import PathManager
from fvcore.common.config import CfgNode as _CfgNode

logger = logging.getLogger(__name__)


class CfgNode(_CfgNode):
    """A tree of options: yacs with ``_BASE_`` inheritance and a VERSION check."""

    @classmethod
    def _open_cfg(cls, filename):
        return PathManager.open(filename, "r")

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = True) -> None:
        """Merges a YAML file, with the files that it names in ``_BASE_``, into this config.

        Args:
            cfg_filename: path; ``_BASE_`` inside is relative to it.
            allow_unsafe: accepted for compatibility; tags that run code are refused either way.
        """
        assert PathManager.isfile(cfg_filename), f"Config file '{cfg_filename}' does not exist!"
        try:
            loaded = type(self)(self.load_yaml_with_base(cfg_filename, allow_unsafe=False))
        except yaml.constructor.ConstructorError as error:
            raise lacks(
                f"A YAML tag that builds Python objects ({cfg_filename}: {error})"
            ) from error
        _check_version(loaded, cfg_filename, self.VERSION)
        self.merge_from_other_cfg(loaded)

    def dump(self, *args, **kwargs):
        """Returns the config as YAML text."""
        return super().dump(*args, **kwargs)


def _check_version(loaded: CfgNode, filename: str, ours: int) -> None:
    version = loaded.get("VERSION", None)
    if version is None:
        is_v1 = "WEIGHT" in loaded.get("MODEL", {}) or "AUG_ON" in loaded.get("TEST", {})
        version = 1 if is_v1 else ours
        logger.warning("Config '%s' has no VERSION. Assuming it to be v%d.", filename, version)
    assert version <= ours, f"Cannot merge a v{version} config into a v{ours} config."
    if version < ours:
        raise lacks(f"Upgrading a config of VERSION {version} ({filename})")


global_cfg = CfgNode()


def get_cfg() -> CfgNode:
    """Returns a fresh copy of all default options."""
    from detectron2.config.defaults import _C

    return _C.clone()


def set_global_cfg(cfg: CfgNode) -> None:
    """Makes ``global_cfg`` show the keys of ``cfg``."""
    global_cfg.clear()
    global_cfg.update(cfg)


def configurable(init_func: Callable | None = None, *, from_config: Callable | None = None):
    """Lets a class (decorating ``__init__``) or a function be called with a config.

    When the first argument, or the keyword ``cfg``, is a CfgNode, ``from_config(cfg, ...)`` gives
    the real arguments. Keywords that ``from_config`` does not take go to the callable itself.

    Args:
        init_func: the ``__init__`` of a class that has a classmethod ``from_config``.
        from_config: for functions: takes ``cfg`` first and returns the arguments as a dict.
    """
    if init_func is not None:
        is_init = inspect.isfunction(init_func) and init_func.__name__ == "__init__"
        assert is_init and from_config is None, (
            "Incorrect use of @configurable: decorate __init__, or pass from_config=function."
        )
        return _configurable_init(init_func)
    if from_config is None:
        return configurable
    assert inspect.isfunction(from_config), (
        "from_config argument of configurable must be a function!"
    )
    return functools.partial(_configurable_function, from_config)


def _configurable_init(init_func: Callable) -> Callable:
    @functools.wraps(init_func)
    def wrapped(self, *args, **kwargs):
        translate = getattr(type(self), "from_config", None)
        if translate is None:
            raise AttributeError("Class with @configurable must have a 'from_config' classmethod.")
        if not inspect.ismethod(translate):
            raise TypeError("Class with @configurable must have a 'from_config' classmethod.")
        if _is_called_with_cfg(args, kwargs):
            init_func(self, **_explicit_arguments(translate, args, kwargs))
        else:
            init_func(self, *args, **kwargs)

    return wrapped


def _configurable_function(from_config: Callable, function: Callable) -> Callable:
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        if _is_called_with_cfg(args, kwargs):
            return function(**_explicit_arguments(from_config, args, kwargs))
        return function(*args, **kwargs)

    wrapped.from_config = from_config
    return wrapped


def _is_called_with_cfg(args: tuple, kwargs: dict) -> bool:
    return isinstance(args[0] if args else kwargs.get("cfg"), _CfgNode)


def _explicit_arguments(from_config: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{from_config.__qualname__} must take 'cfg' as the first argument!")
    kinds = {parameter.kind for parameter in parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return from_config(*args, **kwargs)
    known = {name: value for name, value in kwargs.items() if name in parameters}
    rest = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **known), **rest}
