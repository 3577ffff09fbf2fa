"""Classes and embeddings of one image or of a folder of images, written as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsenet.embedding.extract import Embeddings, embed_files, embed_folder
from sparsenet.embedding.files import save_failures, save_features
from sparsenet.embedding.model import Embedder
from sparsenet.errors import ConfigError
from sparsenet.files import make_folder, write_json

MODES = ("classify", "cluster", "both")
RESULTS_FILE = "batch_results.json"


@dataclass(frozen=True)
class InferenceOptions:
    """What is written.

    Args:
        mode: ``"classify"`` writes classes, ``"cluster"`` embeddings, ``"both"`` both.
        top_k: Classes per image at most.
        threshold: Less probable classes are left out.
        batch_size: Images per step.
        num_workers: Processes that decode; 0 decodes in this one.

    Raises:
        ConfigError: If a value is out of range.
    """

    mode: str = "classify"
    top_k: int = 5
    threshold: float = 0.0
    batch_size: int = 32
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"The mode must be one of {', '.join(MODES)}, got {self.mode!r}.")
        if min(self.top_k, self.batch_size) < 1 or self.num_workers < 0:
            raise ConfigError(
                "Top-k and batch size must be at least 1, and workers not negative, got "
                f"{self.top_k}, {self.batch_size} and {self.num_workers}."
            )

    @property
    def has_classes(self) -> bool:
        """Whether the model's head is needed."""
        return self.mode != "cluster"

    @property
    def has_features(self) -> bool:
        """Whether embeddings are written."""
        return self.mode != "classify"


def infer(
    embedder: Embedder,
    source: Path,
    output: Path,
    options: InferenceOptions,
    *,
    quiet: bool = False,
) -> tuple[Embeddings, Path]:
    """Runs the model on an image, or on all images in a folder and the folders in it.

    Writes ``<name>_result.json`` or ``batch_results.json``; with embeddings also ``features.npy``
    and ``image_names.txt``; ``failed_images.json`` where images could not be read.

    Args:
        embedder: The model; with class names unless the mode is ``"cluster"``.
        source: The image or folder.
        output: A folder.
        options: What is written.
        quiet: No progress bar.

    Returns:
        What was found, and the path of the JSON file.

    Raises:
        DatasetNotFoundError: If the source is missing.
        DatasetError: If no image can be read.
        OutputError: If a file cannot be written.
    """
    make_folder(output)
    limits: dict[str, Any] = {
        "batch_size": options.batch_size,
        "num_workers": options.num_workers,
        "quiet": quiet,
    }
    is_single = source.is_file()
    if is_single:
        found = embed_files(embedder, [source], [source.name], **limits)
    else:
        found = embed_folder(embedder, source, **limits)
    results = {
        name: describe(found, row, embedder.class_names, options)
        for row, name in enumerate(found.names)
    }
    target = output / (f"{source.stem}_result.json" if is_single else RESULTS_FILE)
    if is_single:
        write_json(target, results[source.name])
    else:
        write_json(target, {name: {"image": name, **result} for name, result in results.items()})
    if options.has_features:
        save_features(output, found)
    else:
        save_failures(output, found)
    return found, target


def describe(
    embeddings: Embeddings, row: int, class_names: Sequence[str], options: InferenceOptions
) -> dict[str, Any]:
    """What is written about one image: ``classification``, ``features``, or both."""
    content: dict[str, Any] = {}
    if options.has_classes and embeddings.probabilities is not None:
        content["classification"] = top_classes(
            embeddings.probabilities[row], class_names, options.top_k, options.threshold
        )
    if options.has_features:
        content["features"] = embeddings.features[row].tolist()
    return content


def top_classes(
    probabilities: np.ndarray, class_names: Sequence[str], top_k: int, threshold: float = 0.0
) -> list[dict[str, Any]]:
    """The most probable classes of one image, the most probable first.

    Args:
        probabilities: (K,).
        class_names: K names.
        top_k: How many at most.
        threshold: Less probable ones are left out.
    """
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    return [
        {
            "class_id": int(i),
            "class_name": class_names[i],
            "probability": float(probabilities[i]),
        }
        for i in order
        if probabilities[i] >= threshold
    ]
