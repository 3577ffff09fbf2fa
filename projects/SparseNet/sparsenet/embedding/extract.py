"""Embeddings of many images; one that cannot be read neither stops a batch nor shifts a name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sparsenet.data.photo import find_photos, read_photo
from sparsenet.embedding.model import Embedder
from sparsenet.errors import DatasetError, ImageReadError, NumericalError

# Position, input (3, h, w) or None, why it is None.
_Item = tuple[int, Tensor | None, str]
# Resizing the shorter side of a narrower picture to an input's would take gigabytes.
_MAX_ASPECT = 100


@dataclass(frozen=True)
class Embeddings:
    """One row per image that could be read.

    Args:
        names: Paths below the folder, with forward slashes; unique.
        features: (N, D) float32.
        probabilities: (N, K) float32, or None where the model has no head.
        failures: (name, reason) of the images that could not be read.
    """

    names: tuple[str, ...]
    features: np.ndarray
    probabilities: np.ndarray | None = None
    failures: tuple[tuple[str, str], ...] = field(default=())

    @property
    def labels(self) -> list[str]:
        """Of each image the name of the folder it lies in, which is its class in most data sets.

        Raises:
            DatasetError: If an image lies in no folder.
        """
        loose = [name for name in self.names if "/" not in name]
        if loose:
            raise DatasetError(
                f"Labels are the folders that images lie in, but {loose[0]} lies in none. "
                "Sort the images into a folder per class."
            )
        return [name.split("/")[-2] for name in self.names]


class _Photos(Dataset[_Item]):
    def __init__(self, paths: Sequence[Path], names: Sequence[str], embedder: Embedder) -> None:
        self._paths, self._names = paths, names
        self._transform = embedder.transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> _Item:
        path = self._paths[index]
        try:
            _check_name(self._names[index], path)
            photo = read_photo(path)
            if max(photo.size) > _MAX_ASPECT * min(photo.size):
                raise ImageReadError(
                    f"{path} must be at most {_MAX_ASPECT} times as long as wide, it has "
                    f"{photo.width} x {photo.height} pixels. Crop it."
                )
            return index, self._transform(photo), ""
        except ImageReadError as error:
            return index, None, str(error)


def _check_name(name: str, path: Path) -> None:
    """Names become lines of a UTF-8 file; a name that cannot would shift all that follow."""
    if "\n" in name or "\r" in name or name.encode("utf-8", "ignore").decode() != name:
        raise ImageReadError(f"{str(path)!r} must have a name of one line in UTF-8. Rename it.")


def embed_folder(
    embedder: Embedder,
    folder: Path,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    quiet: bool = False,
) -> Embeddings:
    """Embeds the images of a folder and of the folders in it.

    Raises:
        DatasetNotFoundError: If the folder is missing.
        DatasetError: If it holds no image that can be read.
    """
    paths = find_photos(folder)
    names = [path.relative_to(folder).as_posix() for path in paths]
    return embed_files(
        embedder, paths, names, batch_size=batch_size, num_workers=num_workers, quiet=quiet
    )


def embed_files(
    embedder: Embedder,
    paths: Sequence[Path],
    names: Sequence[str],
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    quiet: bool = False,
) -> Embeddings:
    """Embeds image files.

    Args:
        embedder: The model.
        paths: The files.
        names: What they are called in the result; unique.
        batch_size: Images per step.
        num_workers: Processes that decode; 0 decodes in this one.
        quiet: No progress bar.

    Raises:
        DatasetError: If no file can be read.
        NumericalError: If an embedding is not finite.
    """
    loader = DataLoader(
        _Photos(paths, names, embedder),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
    )
    good: list[str] = []
    failures: list[tuple[str, str]] = []
    features, probabilities = [], []
    with tqdm(total=len(paths), desc="embedding", unit="image", disable=quiet, leave=False) as bar:
        for items in loader:
            bar.update(len(items))
            failures += [(names[i], reason) for i, tensor, reason in items if tensor is None]
            tensors = {i: tensor for i, tensor, _ in items if tensor is not None}
            if not tensors:
                continue
            rows, scores = embedder(torch.stack(list(tensors.values())))
            good += [names[i] for i in tensors]
            features.append(rows.numpy())
            probabilities += [] if scores is None else [scores.numpy()]
    if not good:
        reason = failures[0][1] if failures else "there is none"
        raise DatasetError(
            f"At least one image must be readable, got none of {len(paths)}: {reason}"
        )
    vectors = np.concatenate(features)
    if not np.isfinite(vectors).all():
        name = good[int(np.argmin(np.isfinite(vectors).all(1)))]
        raise NumericalError(
            f"Embeddings must be finite, that of {name} is not: the weights are damaged or their "
            "training diverged. Use an earlier checkpoint."
        )
    return Embeddings(
        names=tuple(good),
        features=vectors,
        probabilities=np.concatenate(probabilities) if probabilities else None,
        failures=tuple(failures),
    )
