"""Stands in for detectron2.checkpoint.detection_checkpoint: has DetectionCheckpointer for .pth, zoo
.pkl and .pyth files; lacks Caffe2 models and pickles that run code."""

import os
import pickle
from collections.abc import Callable
from typing import IO, Any
from urllib.parse import parse_qs, urlparse

import torch
from detectron2._lacking import lacks
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer

# What pickled numpy arrays consist of; anything else in a .pkl could run code.
_SAFE_GLOBALS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name)
      for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
}  # fmt: skip


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _SAFE_GLOBALS:
            raise pickle.UnpicklingError(
                f"This .pkl holds {module}.{name}, which is not an array and could run code. "
                "Convert it to a .pth of tensors on a machine that trusts it."
            )
        return super().find_class(module.replace("numpy._core", "numpy.core"), name)


class DetectionCheckpointer(Checkpointer):
    """Saves and loads a model and what belongs to its training, in Detectron2's files."""

    def __init__(self, model, save_dir="", *, save_to_disk=None, **checkpointables):
        """Takes the model, the folder, whether to write (None: only on rank 0), and other objects
        with ``state_dict`` by the name that they get in the file."""
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._query: dict[str, list[str]] = {}

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``name``.pth, then names it in last_checkpoint; a crash leaves the old files."""
        if not self.save_dir or not self.save_to_disk:
            return
        basename = f"{name}.pth"
        assert os.path.basename(basename) == basename, f"A name without folders is needed: {name}"
        states = {key: item.state_dict() for key, item in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        path = os.path.join(self.save_dir, basename)
        self.logger.info("Saving checkpoint to %s", path)
        self._replace(path, "wb", lambda file: torch.save(data, file))
        self.tag_last_checkpoint(basename)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name into the file last_checkpoint."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        self._replace(path, "w", lambda file: file.write(last_filename_basename))

    def _replace(self, path: str, mode: str, write: Callable[[IO], Any]) -> None:
        if "://" in path:  # remote storage has no rename
            with self.path_manager.open(path, mode) as file:
                write(file)
            return
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            with open(temporary, mode) as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)

    def load(self, path, *args, **kwargs):
        """Loads a file or URL; ``?matching_heuristics=True`` behind it matches ends of names.

        Args:
            path: "" loads nothing.

        Returns:
            What the file held besides the model and the objects that were loaded.
        """
        self._query = {}
        if path:
            url = urlparse(path)
            self._query = parse_qs(url.query)
            path = self.path_manager.get_local_path(url._replace(query="").geturl())
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            return self._load_pickle(filename)
        if filename.endswith(".pyth"):
            return _read_pycls(filename, self._torch_load(filename))
        loaded = self._torch_load(filename)
        if "model" not in loaded:
            loaded = {"model": loaded}
        query = dict(self._query)
        if query.pop("matching_heuristics", ["False"]) == ["True"]:
            loaded["matching_heuristics"] = True
        if query:
            raise ValueError(f"Unsupported query remaining: {query}, original filename: {filename}")
        return loaded

    def _torch_load(self, f: str) -> Any:
        """Reads tensors only: a file that holds other objects is refused by torch."""
        return torch.load(f, map_location="cpu", weights_only=True)

    def _load_pickle(self, filename: str) -> dict[str, Any]:
        with self.path_manager.open(filename, "rb") as file:
            data = _ArrayUnpickler(file, encoding="latin1").load()
        if "model" not in data or "__author__" not in data:
            raise lacks(f"Caffe2 weights ({filename})")
        self.logger.info("Reading a file from '%s'", data["__author__"])
        return data

    def _load_model(self, checkpoint: dict[str, Any]):
        if checkpoint.get("matching_heuristics", False):
            self._convert_ndarray_to_tensor(checkpoint["model"])
            checkpoint["model"] = align_and_update_state_dicts(
                self.model.state_dict(),
                checkpoint["model"],
                c2_conversion=checkpoint.get("__author__") == "Caffe2",
            )
        incompatible = super()._load_model(checkpoint)
        buffers = dict(self.model.named_buffers(recurse=False))
        # The config sets these two; old files lack them.
        for key in {"pixel_mean", "pixel_std"} & buffers.keys() & set(incompatible.missing_keys):
            incompatible.missing_keys.remove(key)
        for key in list(incompatible.unexpected_keys):
            if "anchor_generator.cell_anchors" in key:  # in old files, no longer in any model
                incompatible.unexpected_keys.remove(key)
        return incompatible


def _read_pycls(filename: str, data: dict[str, Any]) -> dict[str, Any]:
    assert "model_state" in data, (
        f"Cannot load .pyth file {filename}; pycls checkpoints must contain 'model_state'."
    )
    state = data["model_state"]
    weights = {key: state[key] for key in state if not key.endswith("num_batches_tracked")}
    return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
