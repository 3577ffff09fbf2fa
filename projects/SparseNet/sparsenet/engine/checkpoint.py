"""Checkpoints of training runs: safe to read, written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from sparsenet.errors import CheckpointError
from sparsenet.files import write_atomically, write_text
from sparsenet.modeling.checkpoint import LoadReport, copy_state, read_checkpoint


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with ``weights_only`` reading and atomic writing.

    File names and contents are Detectron2's (``model_0000999.pth``, ``model_final.pth``,
    ``last_checkpoint``), so that its own tools read them.

    Args:
        model: The model, wrapped for distributed training or not.
        save_dir: Where checkpoints go; empty for a checkpointer that only reads.
        trust: Allows files that hold pickles.
        class_names: Stored beside the weights, for detection where the data is not at hand.
        checkpointables: Further objects with ``state_dict`` and ``load_state_dict``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        trust: bool = False,
        class_names: Sequence[str] = (),
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self._trust, self._class_names = trust, list(class_names)
        self._heuristics = False
        self.report: LoadReport | None = None
        # Another source than the model's own state: a moving average of it, for instance.
        self.read_weights: Callable[[], dict[str, Tensor]] = self.model.state_dict

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Detectron2's; a local path without a file is a :class:`CheckpointError`."""
        path, _, query = (path or "").partition("?")
        if path and "://" not in path and not Path(path).is_file():
            raise CheckpointError(
                f"MODEL.WEIGHTS must name a file, got {path!r}, which does not exist."
            )
        self._heuristics = query == "matching_heuristics=True"
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        checkpoint = read_checkpoint(filename, trust=self._trust)
        if self._heuristics or filename.endswith(".pkl"):
            # The model zoo's names lack the prefixes of a detector ("backbone.bottom_up.").
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if checkpoint.get("matching_heuristics", False):
            return super()._load_model(checkpoint)
        self.report = copy_state(self.model, checkpoint["model"], source="the checkpoint")
        if not self.report.is_complete:
            self.logger.warning("Weights: %s", self.report)
        return None

    def save(self, name: str, **kwargs: Any) -> None:
        """Writes ``name.pth`` to a temporary file, flushes it to disk, and renames it."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.read_weights()}
        if self._class_names:
            data["class_names"] = self._class_names
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda part: torch.save(data, part))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Notes which checkpoint resuming starts from, whole or not at all."""
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)
