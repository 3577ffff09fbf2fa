"""Stands in for no module of Detectron2: has the errors for what lite lacks; lacks the rest.

``from detectron2.modeling import GeneralizedRCNN`` first asks the package for the name and then
looks for a submodule of that name, so one import finder at the end of ``sys.meta_path`` sees every
name and every module that lite does not have.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

INSTALL_HINT = (
    "Install the real Detectron2: pip install --no-build-isolation 'sparsenet[detectron2]' "
    "(it needs a C++ compiler and an installed torch), then unset SPARSENET_DETECTRON2."
)


class LacksModuleError(NotImplementedError, ModuleNotFoundError):
    """A module, or a name imported from a package, that lite does not have."""


class LacksNameError(NotImplementedError, AttributeError):
    """An attribute of a package that lite does not have; ``hasattr`` answers False."""


def message(name: str) -> str:
    """The sentence for a missing ``name``, such as ``detectron2.model_zoo``."""
    return f"{name} is not in the subset of Detectron2 that SparseNet ships. {INSTALL_HINT}"


def lacks(feature: str) -> NotImplementedError:
    """The error to raise where an argument or a config value asks for ``feature``."""
    return NotImplementedError(message(feature))


def package_getattr(package: str) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` for ``package``."""

    def getattr_(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        raise LacksNameError(message(f"{package}.{name}"))

    return getattr_


class _Finder:
    """Comes last: whatever reaches it under ``detectron2.`` does not exist."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname.startswith("detectron2.") and not fullname.rpartition(".")[2].startswith("__"):
            raise LacksModuleError(message(fullname))
        return None


def install_finder() -> None:
    """Puts the finder on ``sys.meta_path`` once."""
    if not any(type(finder).__name__ == "_Finder" for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
