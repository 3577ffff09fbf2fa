"""Command-line inputs -> image files and result folders."""

from pathlib import Path

import pytest

from sparsenet.errors import ImageReadError
from sparsenet.gigapixel.image_files import find_images, result_folders


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "deep/c.tif"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_a_folder_gives_its_images_in_order(folder):
    assert names(find_images([str(folder)])) == ["a.png", "b.JPG"]


def test_patterns_may_go_into_folders(folder):
    assert names(find_images([f"{folder}/*"])) == ["a.png", "b.JPG"]
    assert names(find_images([f"{folder}/**/*.tif"])) == ["c.tif"]


def test_each_image_once_in_the_order_named(folder):
    inputs = [f"{folder}/b.JPG", str(folder), f"{folder}/*.png"]
    assert names(find_images(inputs)) == ["b.JPG", "a.png"]


def test_named_files_are_taken_as_they_are(folder):
    assert names(find_images([f"{folder}/missing.jpg"])) == ["missing.jpg"]


def test_a_file_whose_name_looks_like_a_pattern(folder):
    (folder / "x[1].png").write_text("")
    assert names(find_images([f"{folder}/x[1].png"])) == ["x[1].png"]


def test_nothing_found_is_an_error(folder):
    with pytest.raises(ImageReadError, match=r"pattern .*\*\.webp.* has none"):
        find_images([f"{folder}/*.webp"])
    (folder / "empty").mkdir()
    with pytest.raises(ImageReadError, match=r"folder .*empty.* has none"):
        find_images([str(folder / "empty")])


def test_result_folders_are_unique():
    paths = [Path(p) for p in ("a/x.jpg", "a/x.png", "b/x.jpg", "b/y.tif")]
    folders = result_folders(paths, Path("out"))
    assert [str(f) for f in folders] == ["out/x_jpg", "out/x_png", "out/x_jpg_2", "out/y"]


def test_result_folders_of_many_images_of_one_name():
    paths = [Path(p) for p in ("a/x.jpg", "b/x.jpg", "c/x.jpg", "d/x_jpg_2.tif", "e/x_jpg.tif")]
    names = [folder.name for folder in result_folders(paths, Path("out"))]
    assert names == ["x_jpg", "x_jpg_2", "x_jpg_3", "x_jpg_2_2", "x_jpg_4"]
