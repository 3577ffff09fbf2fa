import json
import logging
import os

import numpy as np
import pytest
import torch
from small_sparse_rcnn import small_cfg
from torch import nn

from sparsenet.errors import OutputError
from sparsenet.gigapixel import Detections
from sparsenet.gigapixel.evidence import Evidence
from sparsenet.gigapixel.tile_rows import (
    RowCollector,
    RowStore,
    TileRow,
    file_hash,
    model_settings,
    remove_rows,
    run_manifest,
    weights_hash,
)
from sparsenet.tiling import TileGrid

SIZE = (300, 500)
GRID = TileGrid(SIZE, 100, 0, 1)
MANIFEST = {"image": "a.jpg", "weights": "1"}


def found(number, num=2, masks=None) -> Detections:
    rng = np.random.default_rng(number)
    corner = rng.uniform(0, 200, (num, 2))
    return Detections(
        np.concatenate([corner, corner + 20], axis=1), rng.uniform(0, 1, num),
        rng.integers(0, 3, num), rng.integers(0, 2, num), np.full(num, number), SIZE,
        downsamples=np.full(num, 4), masks=masks,
    )  # fmt: skip


def evidence(number) -> Evidence:
    return Evidence(np.full((1, 2), float(number)), np.array([5.0]), np.array([0.5]))


def assert_same(one: TileRow, other: TileRow) -> None:
    assert (one.key, one.columns) == (other.key, other.columns)
    for part in ("detections", "evidence"):
        arrays, others = getattr(one, part).to_arrays(), getattr(other, part).to_arrays()
        assert arrays.keys() == others.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, others[name])


def test_rows_are_complete_with_their_last_tile_whatever_the_order():
    collector = RowCollector({(1, 0): (0, 2, 3), (1, 2): (1,)}, SIZE)
    tiles = {(t.row, t.column): t for t in GRID}
    assert collector.add(tiles[0, 3], found(3), evidence(3)) is None
    assert collector.add(tiles[0, 0], found(0), evidence(0)) is None
    single = collector.add(tiles[2, 1], found(11), evidence(11))
    assert single.key == (1, 2) and single.detections.tile_ids.tolist() == [11, 11]
    row = collector.add(tiles[0, 2], found(2, num=0), evidence(2))
    assert (row.key, row.columns) == ((1, 0), (0, 2, 3))
    assert row.detections.tile_ids.tolist() == [0, 0, 3, 3]
    assert row.evidence.centres_xy[:, 0].tolist() == [0, 2, 3]


def test_stored_rows_come_back(tmp_path):
    store = RowStore(tmp_path / "rows", MANIFEST)
    row = TileRow(4, 1, (0, 3), found(1), evidence(1))
    assert store.load((4, 1), (0, 3), SIZE) is None
    store.save(row)
    again = RowStore(tmp_path / "rows", MANIFEST)  # as after an interruption
    assert_same(again.load((4, 1), (0, 3), SIZE), row)
    assert again.load((4, 1), (0, 2, 3), SIZE) is None  # other tiles
    assert again.load((4, 2), (0, 3), SIZE) is None


def test_empty_rows_are_finished_as_well(tmp_path):
    store = RowStore(tmp_path / "rows", MANIFEST)
    store.save(TileRow(1, 0, (2,), found(1, num=0), Evidence.empty()))
    assert len(store.load((1, 0), (2,), SIZE).detections) == 0


def test_rows_of_another_run_are_removed(tmp_path, caplog):
    store = RowStore(tmp_path / "rows", MANIFEST)
    store.save(TileRow(4, 1, (0,), found(1), evidence(1)))
    with caplog.at_level(logging.WARNING):
        other = RowStore(tmp_path / "rows", {**MANIFEST, "weights": "2"})
    assert "another run (other weights)" in caplog.text
    assert other.load((4, 1), (0,), SIZE) is None
    assert json.loads((tmp_path / "rows/tile_rows.json").read_text())["weights"] == "2"


@pytest.mark.parametrize("remove", [lambda folder: RowStore(folder, MANIFEST), remove_rows])
def test_files_of_others_stay(tmp_path, remove):
    """A user may name a folder with results in it."""
    for name in ("manifest.json", "rows.npz", "a/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    store = RowStore(tmp_path, {**MANIFEST, "weights": "2"})
    store.save(TileRow(4, 1, (0,), found(1), evidence(1)))
    for name in (".downsample_4_row_2.17.part.npz", ".tile_rows.17.part.json"):
        (tmp_path / name).touch()  # what kill -9 leaves of a write
    remove(tmp_path)
    assert sorted(set(tmp_path.rglob("*")) - {tmp_path / "tile_rows.json"}) == before
    assert (tmp_path / "manifest.json").read_text() == "mine"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive"])
def test_damaged_rows_run_again(tmp_path, content, caplog):
    store = RowStore(tmp_path / "rows", MANIFEST)
    store.save(TileRow(4, 1, (0,), found(1), evidence(1)))
    (path,) = (tmp_path / "rows").glob("*.npz")
    path.write_bytes(content)
    assert store.load((4, 1), (0,), SIZE) is None
    assert "its tiles run again" in caplog.text


def test_folders_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "rows").write_text("a file")
    with pytest.raises(OutputError, match="rows"):
        RowStore(tmp_path / "rows", MANIFEST)


def test_removing_what_is_not_there_is_fine(tmp_path):
    remove_rows(tmp_path / "rows")
    RowStore(tmp_path / "rows", MANIFEST)
    remove_rows(tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


def test_the_manifest_tells_images_settings_and_weights_apart(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"x" * 100_000)
    base = run_manifest(str(path), (1, "RGB"), "w")
    assert base == run_manifest(str(path), (1, "RGB"), "w")
    assert base != run_manifest(str(path), (2, "RGB"), "w")
    assert base != run_manifest(str(path), (1, "RGB"), "v")
    stat = path.stat()
    path.write_bytes(b"y" + b"x" * 99_999)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert base != run_manifest(str(path), (1, "RGB"), "w")


def test_settings_of_the_model_tell_apart_what_its_weights_do_not(tmp_path):
    cfg = small_cfg()
    before = model_settings(cfg)
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "moved.pth", "meta"
    assert model_settings(cfg) == before
    cfg.MODEL.SparseRCNN.NUM_PROPOSALS += 1
    assert model_settings(cfg) != before
    assert cfg.MODEL.WEIGHTS == "moved.pth"
    changed = model_settings(cfg)
    cfg.TEST.DETECTIONS_PER_IMAGE += 1
    assert model_settings(cfg) != changed


def test_the_hash_of_a_file_follows_its_content(tmp_path):
    path = tmp_path / "mask.geojson"
    assert file_hash("") == file_hash(str(path)) == ""
    path.write_text("{}")
    before = file_hash(str(path))
    path.write_text("[]")
    assert "" != before != file_hash(str(path))


def test_the_hash_of_weights_sees_every_value():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).to(torch.bfloat16)
    before = weights_hash(model)
    assert before == weights_hash(model)
    model[1].running_mean[1] += 1
    assert before != weights_hash(model)
    assert weights_hash(len) == weights_hash(nn.Identity()) == ""
