"""Finished tile rows, in memory and on disk, so that a run that was killed can go on.

A row of tiles of one grid is the unit of work that is kept, and that processes exchange. A
:class:`RowStore` is a folder with one file per finished row, each written atomically, and a
manifest that says of what: rows of another image, configuration or weights are never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from sparsenet.errors import OutputError
from sparsenet.files import make_folder, read_json, write_bytes, write_json
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.evidence import Evidence
from sparsenet.tiling import Tile

logger = logging.getLogger(__name__)

_FORMAT = 1  # of the row files; a change makes older ones unusable
_HEADER_BYTES = 1 << 16
_MANIFEST = "tile_rows.json"
_ROW = "downsample_{}_row_{}.npz"


@dataclass(frozen=True, eq=False)
class TileRow:
    """What was found in the tiles of one row that ran.

    Args:
        downsample: Of its grid.
        row: In its grid.
        columns: The tiles that ran, ascending.
        detections: Not merged, without class names, tile by tile.
        evidence: For finer downsamples, tile by tile.
    """

    downsample: int
    row: int
    columns: tuple[int, ...]
    detections: Detections
    evidence: Evidence

    @property
    def key(self) -> tuple[int, int]:
        """``(downsample, row)``."""
        return self.downsample, self.row


class RowCollector:
    """Puts tiles that come in any order together to rows.

    Args:
        wanted: Columns of the tiles that run, by ``(downsample, row)``.
        image_size: ``(h, w)`` in full-image pixels.
    """

    def __init__(
        self, wanted: dict[tuple[int, int], tuple[int, ...]], image_size: tuple[int, int]
    ) -> None:
        self._wanted = wanted
        self._image_size = image_size
        self._found: dict[tuple[int, int], dict[int, tuple[Detections, Evidence]]] = {}

    def add(self, tile: Tile, detections: Detections, evidence: Evidence) -> TileRow | None:
        """Takes what was found in a tile; gives its row when that is complete."""
        key = (tile.downsample, tile.row)
        found = self._found.setdefault(key, {})
        found[tile.column] = (detections, evidence)
        columns = self._wanted[key]
        if len(found) < len(columns):
            return None
        del self._found[key]
        parts = [found[column] for column in columns]
        return TileRow(
            *key,
            columns,
            Detections.cat([Detections.empty(self._image_size), *(part[0] for part in parts)]),
            Evidence.cat([part[1] for part in parts]),
        )


class RowStore:
    """A folder of finished tile rows; other files in it stay as they are.

    Args:
        folder: Created where it does not exist.
        manifest: What the rows were computed from, see :func:`run_manifest`. Rows of another
            manifest are removed.

    Raises:
        OutputError: If the folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: dict[str, Any]) -> None:
        self.folder = Path(folder)
        manifest = {"format": _FORMAT, **manifest}
        stored = read_json(self.folder / _MANIFEST)
        differs = [name for name in manifest if stored.get(name) != manifest[name]]
        if differs:
            if stored:
                logger.warning(
                    "%s holds tile rows of another run (other %s); starting from the beginning.",
                    self.folder,
                    ", ".join(differs),
                )
            _remove_files(self.folder)
            write_json(make_folder(self.folder) / _MANIFEST, manifest)

    def save(self, row: TileRow) -> None:
        """Keeps a finished row."""
        arrays: dict[str, Any] = {"columns": np.array(row.columns)}
        arrays |= {f"d_{name}": value for name, value in row.detections.to_arrays().items()}
        arrays |= {f"e_{name}": value for name, value in row.evidence.to_arrays().items()}
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_bytes(self._path(row.key), content.getvalue())

    def load(
        self, key: tuple[int, int], columns: Sequence[int], image_size: tuple[int, int]
    ) -> TileRow | None:
        """A finished row; None where it is missing, unreadable, or of other tiles."""
        try:
            with np.load(self._path(key), allow_pickle=False) as file:
                arrays = dict(file)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, zipfile.BadZipFile):
            logger.warning("%s cannot be read; its tiles run again.", self._path(key))
            return None
        if tuple(arrays["columns"]) != tuple(columns):
            return None
        found = {name[2:]: value for name, value in arrays.items() if name.startswith("d_")}
        expected = {name[2:]: value for name, value in arrays.items() if name.startswith("e_")}
        return TileRow(
            *key,
            tuple(columns),
            Detections.from_arrays(found, image_size, ()),
            Evidence.from_arrays(expected),
        )

    def _path(self, key: tuple[int, int]) -> Path:
        return self.folder / _ROW.format(*key)


def remove_rows(folder: Path) -> None:
    """Removes the files of a :class:`RowStore`, and its folder where nothing else is in it.

    Raises:
        OutputError: If they cannot be removed.
    """
    _remove_files(folder)
    with contextlib.suppress(OSError):  # not empty, or not there
        folder.rmdir()


def _remove_files(folder: Path) -> None:
    """Removes rows, manifest, and what an interrupted write has left of them; nothing else."""
    try:
        for name in (Path(_ROW.format("*", "*")), Path(_MANIFEST)):
            parts = folder.glob(f".{name.stem}.*.part{name.suffix}")
            for path in (*folder.glob(str(name)), *parts):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: old tile rows cannot be removed ({error}). Remove them yourself."
        ) from error


def run_manifest(path: str, settings: Sequence[Any], weights: str) -> dict[str, str | int]:
    """What tile rows depend on.

    Args:
        path: Of the image file.
        settings: Options whose ``repr`` tells them apart.
        weights: See :func:`weights_hash`.

    Returns:
        Path, size, time of change and a hash of the beginning of the image, a hash of the settings,
        and the weights.
    """
    stat = os.stat(path)
    with open(path, "rb") as file:
        header = file.read(_HEADER_BYTES)
    return {
        "image": os.path.abspath(path),
        "image_bytes": stat.st_size,
        "image_mtime_ns": stat.st_mtime_ns,
        "image_header": hashlib.sha256(header).hexdigest(),
        "settings": hashlib.sha256(repr(tuple(settings)).encode()).hexdigest(),
        "weights": weights,
    }


def model_settings(cfg: CfgNode) -> str:
    """``cfg.MODEL``, but for where it runs and where its weights lie, and its detections' limit."""
    node = cfg.MODEL.clone()
    node.defrost()
    node.WEIGHTS = node.DEVICE = ""
    return f"{node.dump()}TEST.DETECTIONS_PER_IMAGE: {cfg.TEST.DETECTIONS_PER_IMAGE}\n"


def file_hash(path: str) -> str:
    """A hash of a file's content; empty where there is no file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if os.path.isfile(path) else ""


def weights_hash(model: Any) -> str:
    """A hash of all parameters and buffers; empty for a model without any."""
    weights = model.state_dict() if isinstance(model, nn.Module) else {}
    if not weights:
        return ""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
