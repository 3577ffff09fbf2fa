"""Composed scenes as files and from the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips

from sparsenet.data.scenes.files import check_format
from sparsenet.data.scenes.pixels import PixelFile
from sparsenet.data.scenes.recipe import SceneRecipe, make_scenes
from sparsenet.errors import ConfigError

sys.path.insert(0, str(Path(__file__).parents[3] / "datasets"))
import make_scene
from data.scenes.sources import write_sources


@pytest.fixture
def sources(tmp_path):
    return write_sources(tmp_path)


@pytest.mark.parametrize("size", [(1, 5), (16, 7), (100, 33)])
def test_pixel_file_is_a_readable_image(tmp_path, size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    file = PixelFile(tmp_path / "p.tif", size)
    assert sum(file.write(np.array_split(pixels, min(3, size[0])))) == size[0]
    image = pyvips.Image.new_from_file(str(file.path), access="sequential", fail_on="warning")
    np.testing.assert_array_equal(image.numpy(), pixels)
    assert image.interpretation == "srgb"
    np.testing.assert_array_equal(file.rows(0, 99_999), pixels)
    np.testing.assert_array_equal(file.rows(size[0] // 2, size[0]), pixels[size[0] // 2 :])


def read_all(folder):
    return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def test_drawn_scenes_are_deterministic_files(tmp_path):
    recipe = SceneRecipe(size=(500, 600), density=0.15)
    for name in ("a", "b"):
        make_scenes(recipe, tmp_path / name, seed=5, num_scenes=2, quiet=True)
    content = make_scenes(recipe, tmp_path / "c", seed=6, quiet=True)
    first = read_all(tmp_path / "a")
    assert sorted(first) == [
        "annotations.json", "scene_0005.jpg", "scene_0005.tif", "scene_0005_contact_sheet.jpg",
        "scene_0006.jpg", "scene_0006.tif", "scene_0006_contact_sheet.jpg",
    ]  # fmt: skip
    assert first == read_all(tmp_path / "b"), "same seed, same bytes"
    assert first["scene_0005.tif"] != first["scene_0006.tif"], "another seed, another scene"
    assert first["scene_0006.tif"] == (tmp_path / "c" / "scene_0006.tif").read_bytes()
    assert content["info"]["seed"] == 6 and content["info"]["size"] == [500, 600]


def test_truth_file_and_pixels_agree(tmp_path):
    make_scenes(SceneRecipe(size=(1100, 1500), density=0.6), tmp_path, seed=2, quiet=True)
    content = json.loads((tmp_path / "annotations.json").read_text())
    image = content["images"][0]
    assert (image["height"], image["width"]) == (1100, 1500)
    assert image["file_name"] == "scene_0002.tif" and image["seed"] == 2
    assert [c["name"] for c in content["categories"]] == ["person", "vehicle"]
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert 0 <= x < x + w <= 1500 and 0 <= y < y + h <= 1100
        assert 0 < annotation["area"] <= w * h
        assert annotation["iscrowd"] or annotation["visibility"] >= 0.35
    ids = [a["id"] for a in content["annotations"]]
    assert ids == list(range(1, len(ids) + 1)) and len(ids) > 20
    tiff = pyvips.Image.new_from_file(str(tmp_path / "scene_0002.tif"))
    assert (tiff.width, tiff.height, tiff.get("n-pages")) == (1500, 1100, 4), "a pyramid"
    assert tiff.get("tile-width") == 256
    jpeg = pyvips.Image.new_from_file(str(tmp_path / "scene_0002.jpg"))
    assert abs(tiff.numpy().astype(int) - jpeg.numpy()).mean() < 2, "the same picture"


def test_real_scenes_by_command_line(sources, tmp_path, capsys):
    arguments = [
        "--cutouts", str(sources["cutouts"][0]), "--ground", str(sources["ground"]),
        "--layout", str(sources["layout"]), "--num-scenes", "2", "--seed", "3", "--quiet",
        "--scale", "1.5",
    ]  # fmt: skip
    for part in ("train", "eval"):
        output = ["--output", str(tmp_path / part), "--split", part, "--format", "tiff"]
        assert make_scene.main([*arguments, *output]) == 0
    assert "persons" in capsys.readouterr().out
    content = {
        p: json.loads((tmp_path / p / "annotations.json").read_text()) for p in ("train", "eval")
    }
    layouts = {p: {i["layout"] for i in c["images"]} for p, c in content.items()}
    assert not layouts["train"] & layouts["eval"]
    assert content["train"]["info"]["split"] == "train"
    assert all(i["width"] == 960 for i in content["train"]["images"])
    assert len(content["train"]["annotations"]) == 6
    assert not (tmp_path / "train" / "scene_0003.jpg").exists()


def test_jpeg_limits(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"at most 65500 pixels per side.*--format tiff"):
        check_format((100, 65_535), ["jpeg", "tiff"])
    check_format((100, 65_535), ["tiff"])
    with pytest.raises(ConfigError, match="jpeg or tiff"):
        check_format((100, 100), ["png"])
    size = ["--size", "64", "70000", "--format", "jpeg"]
    assert make_scene.main(["--output", str(tmp_path / "o"), *size]) == 2
    assert "Write it with --format tiff" in capsys.readouterr().err
    assert not (tmp_path / "o").exists(), "refused before anything is written"


def test_bad_arguments_are_named(sources, tmp_path, capsys):
    ground = str(sources["ground"])
    assert make_scene.main(["--output", str(tmp_path / "o"), "--ground", ground]) == 2
    assert "together, got only --ground" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="sides of 64 px or more"):
        SceneRecipe(size=(10, 100))
    with pytest.raises(ConfigError, match="got 0, 0 and 88"):
        make_scenes(SceneRecipe(size=(100, 100)), tmp_path, seed=0, num_scenes=0)
    (tmp_path / "file").write_text("")
    assert make_scene.main(["--output", str(tmp_path / "file"), "--size", "100", "100"]) == 2
    assert "must be a folder that can be written" in capsys.readouterr().err
