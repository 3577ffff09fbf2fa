"""Where tests find recorded numbers and real data.

Files up to 700 kB lie in ``tests/golden``; larger ones, and real images, in a ``shared`` folder
beside the checkout. Tests that need an absent file skip and say which.
"""

from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
_SHARED = Path(__file__).resolve().parents[2] / "shared"
SHARED = _SHARED if _SHARED.is_dir() else None


def shared_path(relative: str) -> Path:
    """A file or folder of the shared data; skips the test where it is absent."""
    if SHARED is None or not (SHARED / relative).exists():
        pytest.skip(f"needs shared/{relative} beside the checkout")
    return SHARED / relative


def load_golden(name: str) -> np.lib.npyio.NpzFile:
    """A golden file from the repository or from the shared folder; skips where it is absent."""
    path = GOLDEN / name
    return np.load(path if path.exists() else shared_path(f"golden/{name}"), allow_pickle=False)
