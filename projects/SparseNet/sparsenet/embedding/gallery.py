"""Clusters as pictures: contact sheets, and a page that also shows nearest neighbours.

The page needs neither a server nor a network: its data comes in a script file, its pictures are
thumbnails in a folder beside it.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sparsenet.analysis.drawing import contact_sheet
from sparsenet.data.photo import read_photo
from sparsenet.embedding.cluster import Clusters
from sparsenet.embedding.extract import Embeddings
from sparsenet.embedding.index import VectorIndex
from sparsenet.files import make_folder, write_bytes
from sparsenet.gigapixel.pictures import write_picture

ASSETS = Path(__file__).parent / "gallery_assets"
THUMBNAILS = "thumbnails"
_PAGE = "index.html"
_NUM_NEIGHBORS = 12
_THUMBNAIL_SIDE = 256
_SHEET_CELL, _SHEET_COLUMNS, _MAX_SHEET_IMAGES = 160, 8, 64


def save_pictures(
    embeddings: Embeddings,
    clusters: Clusters,
    images: Path,
    folder: Path,
    *,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    backend: str = "auto",
    quiet: bool = False,
) -> None:
    """Writes ``sheets/cluster_NNN.jpg`` and ``gallery/index.html``.

    Args:
        embeddings: What was clustered.
        clusters: Of these.
        images: The folder that the names are below.
        folder: Gets both folders.
        labels: See :func:`save_page`; ``metrics`` and ``backend``, too.
        quiet: No progress bar.

    Raises:
        ImageReadError: If an image cannot be read.
        OutputError: If a file cannot be written.
    """
    page = folder / "gallery"
    thumbnails = save_thumbnails(embeddings.names, images, page / THUMBNAILS, quiet=quiet)
    save_contact_sheets(clusters, thumbnails, folder / "sheets")
    save_page(
        embeddings,
        clusters,
        page,
        title=images.resolve().name,
        labels=labels,
        metrics=metrics,
        backend=backend,
    )


def save_thumbnails(
    names: Sequence[str], images: Path, folder: Path, *, quiet: bool = False
) -> list[Path]:
    """Small JPEGs of the images; numbered, because disks may not hold all names side by side.

    Raises:
        ImageReadError: If an image cannot be read.
        OutputError: If one cannot be written.
    """
    make_folder(folder)
    for old in folder.glob("??????.jpg"):
        old.unlink()
    paths = [folder / f"{row:06d}.jpg" for row in range(len(names))]
    rows = tqdm(list(zip(names, paths)), desc="thumbnails", disable=quiet, leave=False)
    for name, path in rows:
        picture = read_photo(images / name, min_side=_THUMBNAIL_SIDE)
        picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=85)
        write_bytes(path, stream.getvalue())
    return paths


def save_contact_sheets(clusters: Clusters, thumbnails: Sequence[Path], folder: Path) -> list[Path]:
    """One ``cluster_NNN.jpg`` per cluster: its images, the most typical first, at most 64."""
    make_folder(folder)
    for old in folder.glob("cluster_*.jpg"):
        old.unlink()
    sheets = []
    for cluster, rows in clusters.members().items():
        pictures = [np.asarray(Image.open(thumbnails[i])) for i in rows[:_MAX_SHEET_IMAGES]]
        sheets.append(folder / f"cluster_{cluster:03d}.jpg")
        write_picture(sheets[-1], contact_sheet(pictures, _SHEET_COLUMNS, _SHEET_CELL))
    return sheets


def save_page(
    embeddings: Embeddings,
    clusters: Clusters,
    folder: Path,
    *,
    title: str,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    backend: str = "auto",
) -> Path:
    """Writes ``index.html`` beside the thumbnails that :func:`save_thumbnails` made.

    Args:
        embeddings: What was clustered.
        clusters: Of these.
        folder: Holds ``thumbnails/``.
        title: Heading.
        labels: Class of each image; neighbours of another class are then marked.
        metrics: Shown at the top.
        backend: See :class:`~sparsenet.embedding.index.VectorIndex`.

    Returns:
        The path of the page.
    """
    data = page_data(embeddings, clusters, labels, backend)
    shown = {"title": title, "metrics": dict(metrics or {}), "thumbnails": THUMBNAILS, **data}
    content = json.dumps(shown, separators=(",", ":"), allow_nan=False)
    make_folder(folder)
    write_bytes(folder / "data.js", f"window.GALLERY={content};\n".encode())
    for asset in sorted(ASSETS.iterdir(), key=lambda file: file.name == _PAGE):
        write_bytes(folder / asset.name, asset.read_bytes())
    return folder / _PAGE


def page_data(
    embeddings: Embeddings,
    clusters: Clusters,
    labels: Sequence[str] | None,
    backend: str = "auto",
) -> dict[str, Any]:
    """What the page's script reads, by row: names, labels, neighbours; and the clusters' rows."""
    similarities, rows = VectorIndex(embeddings.features, backend).neighbors(_NUM_NEIGHBORS)
    members = clusters.members()
    return {
        "names": list(embeddings.names),
        "labels": None if labels is None else list(labels),
        "neighbors": rows.tolist(),
        "similarities": similarities.astype(float).round(3).tolist(),
        "clusters": [
            {
                "number": number,
                "rows": inside.tolist(),
                "commonest": _commonest(inside, labels),
            }
            for number, inside in members.items()
        ],
    }


def _commonest(rows: np.ndarray, labels: Sequence[str] | None) -> list[tuple[str, int]]:
    return [] if labels is None else Counter(labels[i] for i in rows).most_common(3)
