"""Writing large files so that a half-written one is never mistaken for a whole one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparsenet.errors import OutputError, SparseNetError

_TILE_SIDE = 256  # of a TIFF pyramid; what detection reads is a few of them


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write`` with a temporary path beside ``path``, then moves the file into place.

    Raises:
        OutputError: If the file cannot be written; what was there before stays.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        write(part)
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, path)
    except SparseNetError:
        raise
    except (OSError, RuntimeError) as error:  # torch.save raises the latter on a full disk
        raise OutputError(
            f"{path} must be written, which failed: {error}. Check that its folder exists, can be "
            "written and has space left."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def save_pyramid(image: Any, path: Path, quality: int) -> None:
    """Writes a pyvips image as tiled pyramidal TIFF with JPEG tiles."""
    image.tiffsave(
        str(path),
        tile=True,
        pyramid=True,
        compression="jpeg",
        Q=quality,
        tile_width=_TILE_SIDE,
        tile_height=_TILE_SIDE,
        # Classic TIFF ends at 4 GB; a JPEG tile needs at most about its raw size.
        bigtiff=image.width * image.height * 3 > 2**31,
    )


def show_progress(image: Any, description: str, quiet: bool) -> tqdm:
    """Connects a progress bar to the evaluation of a pyvips image."""
    bar = tqdm(total=100, desc=description, unit="%", disable=quiet, leave=False)
    image.set_progress(True)
    image.signal_connect("eval", lambda _, progress: bar.update(progress.percent - bar.n))
    return bar
