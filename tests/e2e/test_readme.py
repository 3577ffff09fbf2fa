"""What the README shows works: its Python runs, its files exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pyvips = pytest.importorskip("pyvips")

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (600, 700, 3), dtype=np.uint8)
    pyvips.Image.new_from_array(pixels).jpegsave(str(tmp_path / "image.jpg"))
    code = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    code, count = re.subn(r"output/demo/scene/\w+\.jpg", str(tmp_path / "image.jpg"), code)
    assert count == 2
    code = code.replace("output/viewer", str(tmp_path / "viewer"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "projects/SparseNet")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "objects" in result.stdout
    assert (tmp_path / "viewer" / "index.html").is_file()


PAGES = ["README.md", "CONTRIBUTING.md", "projects/SparseNet/README.md"]
GUIDE = sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("projects/SparseNet/docs/*.md"))


@pytest.mark.parametrize("name", [*PAGES, *GUIDE])
def test_files_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    folders, suffixes = "configs|datasets|demo|tools|projects|tests", "py|yaml|md|pth|jpg"
    pattern = rf"(?<![\w/.])((?:{folders})/[\w./-]+\.(?:{suffixes}))"
    named = set(re.findall(pattern, text))
    assert not [path for path in sorted(named) if not (ROOT / path).exists()]
