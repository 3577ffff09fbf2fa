"""Safe reading of weights, with a report of what fitted.

Files are read with ``weights_only=True``; a file that needs pickle runs code when it is read and is
refused unless the caller trusts it. Then objects of classes that are not installed (a training
framework's logs beside the weights) are left empty. Weights may be stored in half precision: they
are copied into the model's own dtype.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sparsenet.errors import CheckpointError

logger = logging.getLogger(__name__)

# What reading a damaged or foreign file has been seen to raise.
_READ_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    ImportError,
    AttributeError,
    TypeError,
)


@dataclass(frozen=True)
class LoadReport:
    """Which keys of a checkpoint and of a model met.

    Args:
        matched: In both, with one shape.
        missing: In the model only; these keep their values.
        unexpected: In the checkpoint only; these are not used.
        wrong_shape: ``key: checkpoint shape -> model shape``; not used.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    wrong_shape: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every key met its counterpart."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        text = (
            f"{len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.wrong_shape)} of wrong shape"
        )
        for name in ("missing", "unexpected", "wrong_shape"):
            keys = getattr(self, name)
            if keys:
                more = f" … and {len(keys) - 5} more" if len(keys) > 5 else ""
                text += f"\n  {name.replace('_', ' ')}: " + ", ".join(keys[:5]) + more
        return text


def read_checkpoint(path: str | Path, *, trust: bool = False) -> dict[str, Any]:
    """Reads a checkpoint into ``{"model": state dict, ...}``.

    Args:
        path: A file written by ``torch.save``: a state dict, bare or under ``model`` or
            ``state_dict``; or a Detectron2 model-zoo ``.pkl``.
        trust: Allows pickles, which can run any code. Only for files from a source you trust.

    Raises:
        CheckpointError: If the file is missing, empty, damaged, needs trust, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"The weights must be a file, got {str(path)!r}, which does not exist."
        )
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty (0 bytes). Copy or train it again.")
    if path.suffix == ".pkl":
        content = _read_pickle(path, trust)
    else:
        content = _read_torch(path, trust)
    return _as_checkpoint(content, path)


def _read_pickle(path: Path, trust: bool) -> Any:
    if not trust:
        raise CheckpointError(_needs_trust(path))
    try:
        with path.open("rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except _READ_ERRORS as error:
        raise CheckpointError(f"{path} is not a readable pickle: {error}.") from error


def _read_torch(path: Path, trust: bool) -> Any:
    try:
        if trust:
            return torch.load(
                path, map_location="cpu", weights_only=False, pickle_module=_pickle_module()
            )
        return torch.load(path, map_location="cpu", weights_only=True)
    except _READ_ERRORS as error:
        if isinstance(error, pickle.UnpicklingError) and "weights only" in str(error).lower():
            raise CheckpointError(_needs_trust(path)) from error
        raise CheckpointError(
            f"{path} must be a checkpoint of torch.save, but reading it failed: {error}. "
            "It may be truncated: copy it again."
        ) from error


class _Absent:
    """Stands for any object of a class that is not installed; takes what a pickle gives it."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> _Absent:
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None: ...

    def extend(self, items: Any) -> None: ...


class _Unpickler(pickle.Unpickler):
    """Puts ``_Absent`` where a class cannot be imported."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            logger.info("%s.%s is not installed, its objects are left empty.", module, name)
            return _Absent


def _pickle_module() -> ModuleType:
    """``pickle`` as ``torch.load`` uses it, with our ``Unpickler``."""
    module = ModuleType("sparsenet_pickle")
    module.Unpickler = _Unpickler  # type: ignore[attr-defined]
    module.load = lambda file, **options: _Unpickler(file, **options).load()  # type: ignore[attr-defined]
    return module


def _needs_trust(path: Path) -> str:
    return (
        f"{path} is a pickle, or holds one, and reading it can run any code. If you trust where it "
        "comes from, pass --trust-checkpoint (trust=True in Python)."
    )


def _as_checkpoint(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} must hold a dict of tensors, it holds {type(content).__name__}."
        )
    checkpoint = dict(content)
    state = checkpoint.pop("model", None) or checkpoint.pop("state_dict", None)
    if state is None:
        state, checkpoint = checkpoint, {}
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"{path} must hold a dict of tensors as its model, not {type(state).__name__}."
        )
    tensors = {
        key.removeprefix("module."): torch.as_tensor(value)
        for key, value in state.items()
        if isinstance(value, Tensor) or hasattr(value, "__array__")
    }
    if not tensors:
        raise CheckpointError(
            f"{path} must hold weights under 'model', 'state_dict' or at the top, "
            f"found the keys {sorted(map(str, content))[:5]}."
        )
    return {**checkpoint, "model": tensors}


def load_weights(model: nn.Module, path: str | Path, *, trust: bool = False) -> LoadReport:
    """Copies the weights of a file into a model and tells what fitted.

    Raises:
        CheckpointError: See :func:`read_checkpoint`; and if no key of the file fits the model.
    """
    report = copy_state(model, read_checkpoint(path, trust=trust)["model"], source=str(path))
    log = logger.info if report.is_complete else logger.warning
    log("Weights of %s: %s", path, report)
    return report


def copy_state(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> LoadReport:
    """Copies tensors of equal key and shape into ``model``.

    Raises:
        CheckpointError: If nothing matches; the message holds the report.
    """
    own = model.state_dict()
    matched = [k for k in own if k in state and own[k].shape == state[k].shape]
    report = LoadReport(
        matched=tuple(matched),
        missing=tuple(k for k in own if k not in state),
        unexpected=tuple(k for k in state if k not in own),
        wrong_shape=tuple(
            f"{k}: {tuple(state[k].shape)} -> {tuple(own[k].shape)}"
            for k in own
            if k in state and own[k].shape != state[k].shape
        ),
    )
    if not matched:
        raise CheckpointError(
            f"No tensor of {source} fits the model, so it belongs to another one: {report}\n"
            "Use the config file that the weights were trained with."
        )
    with torch.no_grad():
        for key in matched:
            own[key].copy_(state[key])
    return report
