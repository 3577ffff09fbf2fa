from dataclasses import replace

import numpy as np
import pytest

from sparsenet.errors import ConfigError
from sparsenet.gigapixel import Detections
from sparsenet.gigapixel.masks import decode_mask, encode_mask, mask_windows


def make(num: int = 3, image_size=(100, 200)) -> Detections:
    corners = np.arange(num, dtype=np.float64)[:, None]
    return Detections(
        boxes_xyxy=np.concatenate([corners, corners, corners + 10, corners + 20], axis=1),
        scores=np.linspace(0.9, 0.1, num),
        classes=np.arange(num) % 2,
        truncated=np.arange(num) == 1,
        tile_ids=np.arange(num) + 7,
        image_size=image_size,
        class_names=("person", "vehicle"),
    )


def test_columns_get_their_types():
    detections = make()
    types = [detections.boxes_xyxy.dtype, detections.scores.dtype, detections.classes.dtype]
    assert types == [np.float32, np.float32, np.int64]
    assert detections.truncated.dtype == np.bool_
    assert detections.tile_ids.dtype == np.int64
    assert len(detections) == 3


@pytest.mark.parametrize("index", [[2, 0], np.array([2, 0])])
def test_index_arrays_pick_in_order(index):
    picked = make()[index]
    assert picked.tile_ids.tolist() == [9, 7]
    assert picked.boxes_xyxy[:, 0].tolist() == [2, 0]
    assert picked.class_names == ("person", "vehicle")


def test_masks_slices_and_empty_lists_pick():
    detections = make()
    assert detections[detections.truncated].tile_ids.tolist() == [8]
    assert detections[1:].tile_ids.tolist() == [8, 9]
    assert len(detections[[]]) == 0
    assert detections[[]].boxes_xyxy.shape == (0, 4)


def test_above_includes_the_threshold():
    detections = make()
    assert detections.above(0.5).tile_ids.tolist() == [7, 8]
    assert len(detections.above(0.95)) == 0


def test_cat_keeps_order_and_inverts_splitting():
    whole = make(5)
    joined = Detections.cat([whole[:2], whole[2:2], whole[2:]])
    np.testing.assert_array_equal(joined.boxes_xyxy, whole.boxes_xyxy)
    np.testing.assert_array_equal(joined.tile_ids, whole.tile_ids)


def test_cat_refuses_other_images_and_nothing():
    with pytest.raises(ConfigError, match="parts of one image"):
        Detections.cat([make(), make(image_size=(1, 1))])
    with pytest.raises(ConfigError, match="at least one part"):
        Detections.cat([])


def test_empty_has_the_right_shapes():
    empty = Detections.empty((5, 6), ("person",))
    assert len(empty) == 0
    assert empty.boxes_xyxy.shape == (0, 4)
    assert empty.image_size == (5, 6)
    assert empty.class_names == ("person",)


def test_lengths_must_agree():
    with pytest.raises(ConfigError, match="arrays of one length"):
        Detections(np.zeros((2, 4)), np.zeros(2), np.zeros(1), np.zeros(2), np.zeros(2), (9, 9))
    with pytest.raises(ConfigError, match="arrays of one length"):
        Detections(np.zeros((2, 5)), np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2), (9, 9))


def masked(num=3):
    detections = replace(make(num), boxes_xyxy=make(num).boxes_xyxy + 0.25)
    windows = mask_windows(detections.boxes_xyxy)
    rng = np.random.default_rng(0)
    bitmaps = [rng.random((y2 - y1, x2 - x1)) < 0.5 for x1, y1, x2, y2 in windows]
    return replace(detections, masks=[encode_mask(bitmap) for bitmap in bitmaps]), bitmaps


def test_downsamples_are_one_unless_told():
    assert make().downsamples.tolist() == [1, 1, 1]
    found = replace(make(), downsamples=[4, 1, 4])[[0, 1]]
    assert found.downsamples.tolist() == [4, 1]
    assert found.downsamples.dtype == np.int64


def test_masks_follow_their_boxes():
    detections, bitmaps = masked()
    picked = Detections.cat([detections[[2]], detections[:1]])
    for mask, bitmap in zip(picked.masks, (bitmaps[2], bitmaps[0])):
        np.testing.assert_array_equal(decode_mask(mask), bitmap)
    assert len(Detections.cat([make()[:0], detections]).masks) == 3  # nothing needs no masks
    with pytest.raises(ConfigError, match="all have masks or all have none"):
        Detections.cat([make(), detections])
    with pytest.raises(ConfigError, match="arrays of one length"):
        replace(detections, masks=detections.masks[:2])


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("num", [0, 3])
def test_arrays_survive_a_file_without_pickle(with_masks, num, tmp_path):
    detections = masked()[0] if with_masks else make()
    detections = replace(detections, downsamples=[4, 1, 2])[:num]
    np.savez(tmp_path / "a.npz", **detections.to_arrays())
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        again = Detections.from_arrays(arrays, detections.image_size, detections.class_names)
    assert again.class_names == detections.class_names
    for name, column in detections.to_arrays().items():
        np.testing.assert_array_equal(again.to_arrays()[name], column)
    assert (again.masks is None) == (not with_masks)
    if with_masks:
        assert again.masks.tolist() == detections.masks.tolist()
