"""Embeddings of files: bad ones neither stop a batch nor shift a name."""

import os
import shutil

import numpy as np
import pytest
import torch
from artist_data import paint, paint_folder, save_checkpoint
from PIL import Image

from sparsenet.embedding.extract import Embeddings, embed_files, embed_folder
from sparsenet.embedding.model import load_embedder
from sparsenet.errors import DatasetError, DatasetNotFoundError, NumericalError


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return load_embedder(None, save_checkpoint(tmp_path_factory.mktemp("weights") / "a.pth"))


@pytest.fixture
def pictures(tmp_path):
    return paint_folder(tmp_path / "pictures", per_style=3)


def test_rows_are_named_by_paths_in_order(embedder, pictures):
    found = embed_folder(embedder, pictures, batch_size=4, quiet=True)
    assert list(found.names) == sorted(
        p.relative_to(pictures).as_posix() for p in pictures.glob("*/*")
    )
    assert found.labels[:4] == ["blue_dots"] * 3 + ["green_stripes"]
    assert found.features.shape == (9, embedder.model.num_features)
    assert found.features.dtype == np.float32 and found.probabilities is None
    assert found.failures == ()


def test_batches_and_workers_change_nothing(embedder, pictures):
    found = embed_folder(embedder, pictures, batch_size=9, quiet=True)
    for limits in ({"batch_size": 1}, {"batch_size": 2, "num_workers": 2}):
        other = embed_folder(embedder, pictures, quiet=True, **limits)
        assert other.names == found.names
        np.testing.assert_allclose(other.features, found.features, atol=1e-5)


@pytest.mark.parametrize("bad", [0, 4, 8])
def test_a_damaged_image_shifts_nothing(embedder, pictures, bad):
    whole = embed_folder(embedder, pictures, batch_size=4, quiet=True)
    path = pictures / whole.names[bad]
    path.write_bytes(path.read_bytes()[:60])
    found = embed_folder(embedder, pictures, batch_size=4, quiet=True)
    assert found.names == whole.names[:bad] + whole.names[bad + 1 :]
    np.testing.assert_allclose(found.features, np.delete(whole.features, bad, 0), atol=1e-5)
    ((name, reason),) = found.failures
    assert name == whole.names[bad] and "must be a whole image" in reason


def test_all_kinds_of_bad_files_are_reported(embedder, pictures):
    (pictures / "empty.jpg").touch()
    (pictures / "text.png").write_text("no picture")
    (pictures / "two\nlines.png").write_bytes((pictures / "red_blocks/00.png").read_bytes())
    Image.new("RGB", (2000, 4)).save(pictures / "thread.png")
    found = embed_folder(embedder, pictures, batch_size=2, quiet=True)
    assert len(found.names) == 9
    reasons = dict(found.failures)
    assert set(reasons) == {"empty.jpg", "text.png", "two\nlines.png", "thread.png"}
    assert "name of one line" in reasons["two\nlines.png"]
    assert "100 times as long as wide" in reasons["thread.png"]


@pytest.mark.skipif(os.name == "nt", reason="such names do not exist there")
def test_a_name_that_is_not_text_is_reported(embedder, pictures):
    good = os.fsencode(pictures / "red_blocks" / "00.png")
    try:
        shutil.copy(good, os.fsencode(pictures) + b"/\xff.png")
    except OSError:
        pytest.skip("the disk refuses such names")
    found = embed_folder(embedder, pictures, quiet=True)
    assert len(found.names) == 9 and "UTF-8" in found.failures[0][1]


def test_same_named_files_are_kept_apart(embedder, tmp_path):
    for style, folder in enumerate(("a", "b", "b/c")):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(paint(style, 0)).save(tmp_path / folder / "same.PNG")
    found = embed_folder(embedder, tmp_path, quiet=True)
    assert found.names == ("a/same.PNG", "b/c/same.PNG", "b/same.PNG")
    assert len(np.unique(found.features, axis=0)) == 3


def test_modes_of_pictures(embedder, tmp_path):
    picture = Image.fromarray(paint(0, 0))
    for mode in ("L", "RGBA", "CMYK", "P", "1"):
        picture.convert(mode).save(tmp_path / f"{mode}.tif")
    assert len(embed_folder(embedder, tmp_path, quiet=True).names) == 5


def test_photos_are_turned_upright(embedder, tmp_path):
    picture = Image.fromarray(paint(1, 0))
    picture.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    upright, turned = embed_folder(embedder, tmp_path, quiet=True).features
    np.testing.assert_allclose(upright, turned, atol=1e-5)


def test_mistakes(embedder, tmp_path):
    with pytest.raises(DatasetNotFoundError, match="must be in a folder"):
        embed_folder(embedder, tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="got none of 0"):
        embed_folder(embedder, tmp_path, quiet=True)
    with pytest.raises(DatasetError, match=r"got none of 1.*missing\.png"):
        embed_files(embedder, [tmp_path / "missing.png"], ["missing.png"], quiet=True)
    loose = Embeddings(("a.png",), np.ones((1, 2), np.float32))
    with pytest.raises(DatasetError, match=r"a\.png lies in none"):
        _ = loose.labels


def test_diverged_weights_are_named(tmp_path, pictures):
    path = save_checkpoint(tmp_path / "a.pth")
    content = torch.load(path, weights_only=True)
    content["model"]["patch_embed.0.c.weight"].fill_(float("nan"))
    torch.save(content, path)
    with pytest.raises(NumericalError, match=r"blue_dots/00\.png"):
        embed_folder(load_embedder(None, path), pictures, quiet=True)
