"""The reading benchmark measures every way of reading."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from image_checks import smooth
from PIL import Image

pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")
ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/benchmark_reading.py", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects/SparseNet")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_tiles_are_counted_and_memory_is_told(tmp_path):
    Image.fromarray(smooth(300, 400)).save(tmp_path / "a.jpg")
    options = ("--tile-size", 100, "--overlap", 0, "--case", "tiles at 1 and 4")
    result = run(tmp_path / "a.jpg", *options)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["tiles"] == 13
    assert found["peak MB"] > 20


def test_missing_images_exit_with_2(tmp_path):
    result = run(tmp_path / "nowhere.jpg")
    assert result.returncode == 2
    assert "there is no such image file" in result.stderr
