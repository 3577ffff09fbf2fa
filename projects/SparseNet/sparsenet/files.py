"""Folders and files of results, written atomically, and read again."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsenet.errors import OutputError, SparseNetError


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, created with its parents where it does not exist.

    Raises:
        OutputError: If it cannot be created or nothing can be written into it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OutputError(
            f"Results must go to a folder that can be written, {path} cannot: {error}. "
            "Choose another (--output, OUTPUT_DIR), or change its permissions."
        ) from error
    return path


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file; empty where the file is missing or holds something else."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON, see :func:`write_atomically`."""
    write_bytes(path, json.dumps(content, separators=(",", ":"), allow_nan=False).encode())


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 text, see :func:`write_atomically`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes bytes, see :func:`write_atomically`."""
    write_atomically(path, lambda part: part.write_bytes(content))


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Writes a file so that its path holds either the old content or all of the new.

    Args:
        path: The file.
        write: Called with a temporary path beside it, of the same suffix.

    Raises:
        OutputError: If the file cannot be written; what was there before stays.
    """
    target = Path(path)
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        write(part)
        with open(part, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, target)
    except SparseNetError:
        raise
    except (OSError, RuntimeError) as error:  # torch.save raises the latter on a full disk
        raise OutputError(
            f"{target} must be written, which failed: {error}. Check that its folder exists, can "
            "be written and has space left."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
