"""SparseNet: object detection in gigapixel images with sparse backbones and learnable proposals.

Importing the package makes ``detectron2`` importable: the real one where it is installed, otherwise
the subset in ``sparsenet/lite`` (appended last to ``sys.path``). ``SPARSENET_DETECTRON2=real|lite``
forces one of them.

As with any Detectron2 project, ``from sparsenet import add_sparsenet_config`` (or ``load_config``)
also registers the models. They are imported only then: geometry and reading need no torch.
"""

import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from sparsenet.errors import ConfigError, MissingDependencyError

__version__ = "0.1.0"

_LITE_PATH = str(Path(__file__).parent / "lite")


def _select_detectron2() -> str:
    """Makes ``import detectron2`` work and returns which one serves: ``"real"`` or ``"lite"``."""
    choice = os.environ.get("SPARSENET_DETECTRON2", "")
    if choice not in ("", "real", "lite"):
        raise ConfigError(
            f"SPARSENET_DETECTRON2 must be 'real' or 'lite' (or unset), got {choice!r}. "
            "Unset it to use the real Detectron2 where it is installed."
        )
    if choice == "lite":
        if _LITE_PATH in sys.path:
            sys.path.remove(_LITE_PATH)
        sys.path.insert(0, _LITE_PATH)
        return "lite"
    spec = importlib.util.find_spec("detectron2")
    if spec is not None and spec.origin is not None and not spec.origin.startswith(_LITE_PATH):
        return "real"
    if choice == "real":
        raise MissingDependencyError(
            "SPARSENET_DETECTRON2=real needs the real Detectron2, which is not installed. "
            "Install it with `pip install --no-build-isolation 'sparsenet[detectron2]'` "
            "or unset the variable."
        )
    if _LITE_PATH not in sys.path:
        sys.path.append(_LITE_PATH)
    return "lite"


# fvcore scripts a loss when it is imported, which torch >= 2.9 warns about; nothing here uses it.
warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")

DETECTRON2 = _select_detectron2()

__all__ = ["DETECTRON2", "__version__", "add_sparsenet_config", "load_config"]


def __getattr__(name: str) -> Any:
    """The two functions that configure models, which are registered on the way."""
    if name not in ("add_sparsenet_config", "load_config"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("sparsenet.modeling")
    return getattr(importlib.import_module("sparsenet.config"), name)
