"""From what a user names on a command line to image files and result folders."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from sparsenet.errors import ImageReadError
from sparsenet.tiling import IMAGE_SUFFIXES


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The image files that files, folders and glob patterns stand for, each once.

    Args:
        inputs: A file (taken as it is, even if it is missing: reading it reports that), a folder
            (its images, sorted, not those of folders inside), or a pattern with ``*``, ``?``, ``[``
            (``**`` goes into folders).

    Raises:
        ImageReadError: If a folder or pattern holds no image.
    """
    found: list[Path] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            matches = [file for file in sorted(path.iterdir()) if _is_image(file)]
        elif not path.exists() and glob.has_magic(text):
            matches = [
                Path(m) for m in sorted(glob.glob(text, recursive=True)) if _is_image(Path(m))
            ]
        else:
            matches = [path]
        if not matches:
            kind = "folder" if path.is_dir() else "pattern"
            raise ImageReadError(
                f"--input must name at least one image; the {kind} {text!r} has none "
                f"with one of the endings {', '.join(IMAGE_SUFFIXES)}. "
                "Check the path, and quote patterns."
            )
        found += matches
    return list(dict.fromkeys(found))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES


def result_folders(paths: Sequence[Path], output: Path) -> list[Path]:
    """One folder per image below ``output``: its stem, made unique where stems repeat."""
    stems = Counter(path.stem for path in paths)
    taken: dict[str, None] = {}  # in the order of the paths
    for path in paths:
        name = path.stem if stems[path.stem] == 1 else path.name.replace(".", "_")
        candidates = chain([name], (f"{name}_{number}" for number in count(2)))
        taken[next(c for c in candidates if c not in taken)] = None
    return [output / name for name in taken]
