"""Finding and reading photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsenet.data.photo import find_photos, read_photo
from sparsenet.errors import DatasetNotFoundError, ImageReadError

ORIENTATION = 0x0112  # EXIF


def save(path: Path, size=(40, 30), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 60)).save(path, **options)
    return path


def test_finds_photos_below_a_folder_sorted_and_each_once(tmp_path):
    names = ["b/2.JPG", "a.png", "b/1.jpeg", "c.webp"]
    for name in (*names, ".hidden.png", ".thumbs/d.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_photos(tmp_path)]
    assert found == ["a.png", "b/1.jpeg", "b/2.JPG", "c.webp"]
    assert [p.name for p in find_photos(tmp_path, (".JPG",))] == ["2.JPG"]


def test_a_folder_must_be_there(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="must be in a folder"):
        find_photos(save(tmp_path / "a.png"))


def test_reads_upright_rgb(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # to be turned by 90 degrees
    photo = read_photo(save(tmp_path / "a.jpg", exif=exif))
    assert photo.size == (30, 40) and photo.mode == "RGB"
    Image.new("LA", (4, 4), (128, 255)).save(tmp_path / "grey.png")
    assert np.asarray(read_photo(tmp_path / "grey.png")).tolist() == [[[128] * 3] * 4] * 4


def test_jpegs_can_be_decoded_smaller(tmp_path):
    path = save(tmp_path / "a.jpg", size=(800, 640))
    assert read_photo(path, min_side=100).size == (200, 160)  # a quarter; an eighth is too small
    assert read_photo(path).size == (800, 640)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_damaged_files_are_named(tmp_path, content):
    path = save(tmp_path / "a.png", size=(300, 300))
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(ImageReadError, match=r"a\.png must be a whole image"):
        read_photo(path)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(ImageReadError, match=r"absent\.png must be a whole image"):
        read_photo(tmp_path / "absent.png")
