"""datasets/prepare_artist.py on generated folders of works."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsenet.data.artist_split import SplitOptions, split_artists, unique_names
from sparsenet.errors import ConfigError, DatasetError, DatasetNotFoundError

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))
import prepare_artist as command


def paint(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def works(tmp_path):
    """Three artists with 12 works, one with 2; other files between them."""
    source = tmp_path / "raw"
    for artist in ("Monet", "Hokusai", "ukiyo-e école"):
        for i in range(12):
            folder = source / artist / ("late" if i % 3 == 0 else "")
            paint(folder / f"work_{i:02d}.{('jpg', 'PNG')[i % 2]}", i)
    for i in range(2):
        paint(source / "Vermeer" / f"{i}.jpg", i)
    (source / "Monet" / "notes.txt").write_text("not a work")
    (source / "readme.txt").write_text("no artist")
    return source


def run(source, output, *flags):
    arguments = ["--source-dir", str(source), "--output-dir", str(output), "--quiet", *flags]
    return command.main(arguments)


def placed(output):
    return sorted(p.relative_to(output).as_posix() for p in output.glob("*/*/*") if not p.is_dir())


def test_writes_folders_and_descriptions(works, tmp_path, capsys):
    output = tmp_path / "set"
    assert run(works, output) == 0
    printed = capsys.readouterr().out
    assert "Vermeer (2)" in printed and "3 artists, 30 train, 6 val images" in printed
    artists = ["Hokusai", "Monet", "ukiyo-e école"]
    for split, count in (("train", 10), ("val", 2)):
        assert sorted(p.name for p in (output / split).iterdir()) == artists
        assert all(len(list((output / split / a).iterdir())) == count for a in artists)
    with (output / "class_mapping.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["class_id", "class_name"], *([str(i), a] for i, a in enumerate(artists))]
    names = json.loads((output / "class_names.json").read_text(encoding="utf-8"))
    assert names == {str(i): a for i, a in enumerate(artists)}
    info = json.loads((output / "dataset_info.json").read_text(encoding="utf-8"))
    assert info["n_classes"] == 3 and info["class_names"] == artists
    assert info["class_to_idx"] == {a: i for i, a in enumerate(artists)}
    assert (info["train_images"], info["val_images"], info["total_images"]) == (30, 6, 36)
    assert info["train_per_class"] == dict.fromkeys(artists, 10)
    assert info["val_per_class"] == dict.fromkeys(artists, 2)
    text = (output / "split_info.txt").read_text(encoding="utf-8")
    assert all(name in text for name in placed(output))


def test_no_work_is_on_both_sides_and_none_is_lost(works):
    split = split_artists(works, quiet=True)
    for artist, paths in split.works["train"].items():
        held_out = split.works["val"][artist]
        assert not set(paths) & set(held_out)
        assert len({*paths, *held_out}) == 12


def test_split_depends_on_the_seed_and_the_artist_alone(works):
    first = split_artists(works, quiet=True)
    assert split_artists(works, SplitOptions(seed=7), quiet=True).works != first.works
    shutil.rmtree(works / "Hokusai")
    again = split_artists(works, quiet=True)
    assert again.works["val"]["Monet"] == first.works["val"]["Monet"]


def test_same_names_are_kept_apart(tmp_path):
    for i in range(4):
        paint(tmp_path / "raw" / "Monet" / str(i) / ("a.jpg" if i % 2 else "A.JPG"), i)
    assert run(tmp_path / "raw", tmp_path / "set", "--min-images", "4") == 0
    found = placed(tmp_path / "set")
    assert len(found) == 4
    train = [name.casefold() for name in found if name.startswith("train")]
    assert len(set(train)) == 3
    contents = {(tmp_path / "set" / name).read_bytes() for name in found}
    assert len(contents) == 4


def test_unique_names_ignore_case():
    paths = [Path(name) for name in ("x/a.jpg", "y/A.jpg", "z/a_1.jpg", "w/a.jpg")]
    assert unique_names(paths) == ["a.jpg", "A_1.jpg", "a_1_1.jpg", "a_2.jpg"]


def test_artists_that_differ_in_case_only_are_refused(tmp_path):
    paint(tmp_path / "Monet" / "a.jpg")
    paint(tmp_path / "monet" / "a.jpg")
    with pytest.raises(DatasetError, match="'Monet' and 'monet'"):
        split_artists(tmp_path, quiet=True)


def test_damaged_works_are_left_out_and_listed(works, tmp_path, caplog):
    damaged = works / "Monet" / "work_01.PNG"
    damaged.write_bytes(damaged.read_bytes()[:200])
    assert run(works, tmp_path / "set") == 0
    info = json.loads((tmp_path / "set" / "dataset_info.json").read_text())
    assert info["unreadable"] == ["Monet/work_01.PNG"] and info["train_per_class"]["Monet"] == 9
    assert "must be a whole image" in caplog.text


def test_names_that_are_not_text(works, tmp_path):
    good = os.fsencode(works / "Monet" / "work_01.PNG")
    try:
        shutil.copy(good, os.fsencode(works / "Monet") + b"/\xe9.png")
    except OSError:
        pytest.skip("the disk refuses such names")
    assert run(works, tmp_path / "set") == 0
    info = json.loads((tmp_path / "set" / "dataset_info.json").read_text())
    assert info["unreadable"] == ["Monet/\\udce9.png"] and info["train_per_class"]["Monet"] == 10
    (works / "Vermeer").rename(os.fsdecode(os.fsencode(works) + b"/\xe9cole"))
    with pytest.raises(DatasetError, match="names in UTF-8"):
        split_artists(works, quiet=True)


def test_links_lead_to_the_works(works, tmp_path):
    assert run(works, tmp_path / "set", "--symlink") == 0
    links = [tmp_path / "set" / name for name in placed(tmp_path / "set")]
    assert all(link.is_symlink() and works in link.resolve().parents for link in links)


def test_nothing_is_overwritten_without_consent(works, tmp_path, capsys, monkeypatch):
    output = tmp_path / "set"
    assert run(works, output) == 0
    before = placed(output)
    assert run(works, output, "--seed", "1") == 2
    assert "exists and is kept" in capsys.readouterr().err and placed(output) == before
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert run(works, output, "--seed", "1") == 1 and placed(output) == before
    monkeypatch.setattr("builtins.input", lambda question: "y")
    assert run(works, output, "--seed", "1") == 0 and placed(output) != before
    assert not list(tmp_path.glob(".*"))


def test_only_own_folders_are_replaced(works, tmp_path, capsys):
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    assert run(works, other, "--overwrite") == 2
    assert "Only a folder that this command wrote" in capsys.readouterr().err
    assert (other / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("place", [".", "..", "sets/artists"])
def test_output_must_lie_outside_the_works(works, place, capsys):
    assert run(works, works / place, "--overwrite") == 2
    assert "must lie outside the works" in capsys.readouterr().err


def test_mistakes(works, tmp_path):
    with pytest.raises(DatasetNotFoundError, match="is no folder"):
        split_artists(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"must hold 99 readable images.*'Monet': 12"):
        split_artists(works, SplitOptions(min_images=99), quiet=True)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        SplitOptions(val_ratio=1.0)
    with pytest.raises(ConfigError, match="at least 2"):
        SplitOptions(min_images=1)
    for suffixes in ([".gif"], ["jpg"], []):
        with pytest.raises(ConfigError, match=r"must be among \.jpg, \.jpeg"):
            SplitOptions(suffixes=suffixes)
