"""Contact sheets and the page of clusters and neighbours."""

import json
import re

import numpy as np
import pytest
from artist_data import STYLES, paint_folder
from PIL import Image

from sparsenet.embedding.cluster import cluster
from sparsenet.embedding.extract import Embeddings
from sparsenet.embedding.gallery import ASSETS, save_pictures
from sparsenet.errors import ImageReadError


@pytest.fixture
def embeddings(tmp_path):
    """Mean colours of three pictures of each of three colours."""
    folder = paint_folder(tmp_path / "pictures", per_style=3)
    names = tuple(sorted(p.relative_to(folder).as_posix() for p in folder.glob("*/*")))
    means = [np.asarray(Image.open(folder / name)).mean((0, 1)) for name in names]
    return Embeddings(names, np.array(means, dtype=np.float32))


def page_data(folder):
    text = (folder / "gallery" / "data.js").read_text()
    return json.loads(re.fullmatch(r"window\.GALLERY=(.*);\n", text)[1])


def test_page_and_sheets(embeddings, tmp_path):
    clusters = cluster(embeddings.features, 3)
    metrics = {"purity": 1.0}
    save_pictures(
        embeddings, clusters, tmp_path / "pictures", tmp_path / "out", quiet=True,
        labels=embeddings.labels, metrics=metrics,
    )  # fmt: skip
    page = tmp_path / "out" / "gallery"
    assert {p.name for p in page.iterdir()} == {
        "data.js", "thumbnails", *(asset.name for asset in ASSETS.iterdir())
    }  # fmt: skip
    html = (page / "index.html").read_text()
    for name in re.findall(r'(?:src|href)="([^"]+)"', html):
        assert (page / name).is_file()
    assert "http" not in html.replace("http-equiv", "")
    data = page_data(tmp_path / "out")
    assert data["title"] == "pictures" and data["metrics"] == metrics
    assert data["names"] == list(embeddings.names)
    assert len(list((page / "thumbnails").iterdir())) == 9
    for row, others in enumerate(data["neighbors"]):  # the two of its colour come first
        assert {data["labels"][i] for i in others[:2]} == {data["labels"][row]}
        assert row not in others
    for one in data["clusters"]:
        assert one["commonest"] == [[data["labels"][one["rows"][0]], 3]]
    assert {one["commonest"][0][0] for one in data["clusters"]} == set(STYLES)
    sheets = sorted((tmp_path / "out" / "sheets").iterdir())
    assert [s.name for s in sheets] == [f"cluster_{i:03d}.jpg" for i in range(3)]
    assert Image.open(sheets[0]).size[0] > 2 * 64


def test_writing_again_leaves_nothing_of_before(embeddings, tmp_path):
    for count in (4, 2):
        clusters = cluster(embeddings.features, count)
        save_pictures(embeddings, clusters, tmp_path / "pictures", tmp_path / "out", quiet=True)
    assert len(list((tmp_path / "out" / "sheets").iterdir())) == 2
    assert page_data(tmp_path / "out")["labels"] is None


def test_names_cannot_break_the_page(embeddings, tmp_path):
    (tmp_path / "pictures" / "a").mkdir()
    name = "a/</script><img src=x>.png"
    (tmp_path / "pictures" / "a" / "<").mkdir()
    target = tmp_path / "pictures" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 9)).save(target)
    rows = np.eye(2, dtype=np.float32)
    both = Embeddings((embeddings.names[0], name), rows)
    save_pictures(both, cluster(rows, 1), tmp_path / "pictures", tmp_path / "out", quiet=True)
    assert page_data(tmp_path / "out")["names"][1] == name
    assert "<img src=x>" not in (tmp_path / "out" / "gallery" / "index.html").read_text()


def test_a_missing_picture_is_named(embeddings, tmp_path):
    (tmp_path / "pictures" / embeddings.names[4]).unlink()
    clusters = cluster(embeddings.features, 1)
    with pytest.raises(ImageReadError, match=embeddings.names[4]):
        save_pictures(embeddings, clusters, tmp_path / "pictures", tmp_path / "out", quiet=True)
