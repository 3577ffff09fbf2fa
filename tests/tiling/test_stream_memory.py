"""Peak memory of whole processes that stream JPEGs larger than they may hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_data import shared_path

pyvips = pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


def peak_megabytes(image: Path, case: str = "tiles at 1 and 4") -> float:
    command = [sys.executable, "tools/benchmark_reading.py", str(image), "--case", case]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects" / "SparseNet")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)["peak MB"]


def write_jpeg(path: Path, width: int, height: int) -> Path:
    block = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    image = pyvips.Image.new_from_array(block).gaussblur(2).cast("uchar")
    image = image.replicate(-(-width // 512), -(-height // 512)).crop(0, 0, width, height)
    image.jpegsave(str(path), Q=60)
    return path


def test_a_panda_frame_fits_into_half_a_gigabyte(tmp_path):
    assert peak_megabytes(write_jpeg(tmp_path / "frame.jpg", 25_152, 14_144)) < 500


def test_a_scan_of_713_megapixels_fits_into_less_than_a_gigabyte():
    scan = shared_path("data/gigapixel_starry/starry_night_30000x23756_q14.jpg")
    assert peak_megabytes(scan) < 800


def test_the_height_of_a_jpeg_costs_no_memory(tmp_path):
    """Beyond the file itself, which is mapped into memory and counted as the process's own."""
    low, high = (write_jpeg(tmp_path / f"{h}.jpg", 8192, h) for h in (8_192, 49_152))
    mapped = (high.stat().st_size - low.stat().st_size) / 1e6
    assert peak_megabytes(high) < peak_megabytes(low) + mapped + 25  # of 1,007 MB more pixels
