import numpy as np
import pytest
import torch
from small_sparse_rcnn import small_model

from sparsenet.gigapixel import TileOptions
from sparsenet.gigapixel.evidence import Evidence, ObjectnessTap
from sparsenet.gigapixel.options import SelectOptions
from sparsenet.tiling import Tile, Window

TILE = Tile(0, 0, Window(100, 200, 512, 400), 2, (True, True, True, True))


def options(threshold) -> TileOptions:
    return TileOptions(select=SelectOptions(threshold=threshold))


def test_sure_boxes_that_no_seam_cuts_become_full_image_objects():
    boxes = np.array(
        [
            [10, 20, 30, 60],
            [40, 40, 50, 50],  # unsure
            [5, 20, 30, 60],  # 5 px from the seam on the left
            [100, 100, 140, 196],  # 4 px from the one below
            [-30, 50, -10, 60],  # beyond the tile
        ]
    )
    scores = np.array([0.9, 0.2, 0.9, 0.9, 0.9])
    found = Evidence.from_boxes(boxes, scores, TILE, options(0.3))
    assert found.centres_xy.tolist() == [[140, 280]]
    assert found.sides.tolist() == [80]
    assert found.scores.tolist() == [0.9]


def test_the_image_border_is_no_seam():
    tile = Tile(0, 0, Window(0, 0, 512, 400), 2, (False, False, True, True))
    found = Evidence.from_boxes(np.array([[-3, 0, 30, 60]]), np.ones(1), tile, options(0.3))
    assert found.centres_xy.tolist() == [[30, 60]]


def test_arrays_and_joining_keep_everything():
    one = Evidence(np.array([[1.0, 2.0]]), np.array([3.0]), np.array([0.5]))
    both = Evidence.cat([one, Evidence.empty(), one])
    again = Evidence.from_arrays(both.to_arrays())
    assert len(again) == 2
    np.testing.assert_array_equal(again.centres_xy, [[1, 2], [1, 2]])
    assert len(Evidence.cat([])) == 0


def test_models_without_dense_proposals_have_no_tap():
    assert ObjectnessTap.of_model(small_model()) is None
    assert ObjectnessTap.of_model(lambda inputs: inputs) is None


def test_the_tap_reads_the_best_objectness_of_each_image():
    torch.manual_seed(0)
    model = small_model(PROPOSAL_INIT="dense").eval()
    tap = ObjectnessTap.of_model(model)
    tile = Tile(0, 0, Window(0, 0, 64, 64), 1, (False,) * 4)
    images = [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)} for _ in range(2)]
    with torch.no_grad(), tap:
        model(images)
    with torch.no_grad():  # what runs outside the block is not read
        model([images[0]])
        best = model.predict_objectness(images)
    for index in range(2):
        seen = tap.evidence(index, tile, options(0.0))
        assert 0 < len(seen) <= 200
        # A box whose middle lies beyond the tile does not count, so the best one may be left out.
        assert seen.scores.max() <= float(best[index]) + 1e-6
        assert seen.scores.max() == pytest.approx(float(best[index]), abs=5e-3)
    assert len(tap.evidence(0, tile, options(0.9))) == 0
