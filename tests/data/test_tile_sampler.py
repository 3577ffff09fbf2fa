from itertools import islice

import numpy as np
import pytest
from detectron2.structures import BoxMode

from sparsenet.data import TileDistribution, TileRequests, TileSampler
from sparsenet.errors import ConfigError, DatasetError
from sparsenet.tiling.annotations import visible_share

SIZE = 128


def make_dict(image_id, boxes, *, size=(3000, 4000), crowd=(), classes=None):
    classes = classes or [0] * len(boxes)
    return {
        "file_name": f"{image_id}.tif",
        "image_id": image_id,
        "height": size[0],
        "width": size[1],
        "annotations": [
            {
                "bbox": list(box),
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": category,
                "iscrowd": int(i in crowd),
            }
            for i, (box, category) in enumerate(zip(boxes, classes))
        ],
    }


def random_boxes(count, seed, *, low=40.0, high=400.0, size=(3000, 4000)):
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(low), np.log(high), count))
    x, y = rng.uniform(0, size[1] - sides), rng.uniform(0, size[0] - sides)
    return np.stack([x, y, x + sides / 2, y + sides], axis=1).tolist()


def distribution(**changes):
    values = {
        "size": SIZE,
        "object_size_range": (16.0, 80.0),
        "empty_share": 0.3,
        "scale_jitter": 0.2,
    }
    return TileDistribution(**{**values, **changes})


def key(request):
    return request.record.image_id, request.window, request.downsample


@pytest.fixture(scope="module")
def dicts():
    return [make_dict(1, random_boxes(60, 1)), make_dict(2, random_boxes(20, 2))]


def test_a_request_depends_on_seed_and_number_only(dicts):
    one, two = (TileRequests(dicts, distribution(), seed=5) for _ in range(2))
    forward = [key(one[i]) for i in range(40)]
    backward = [key(two[i]) for i in reversed(range(40))][::-1]
    assert forward == backward
    assert len(set(forward)) == 40
    other_seed = TileRequests(dicts, distribution(), seed=6)
    assert [key(other_seed[i]) for i in range(40)] != forward
    assert key(one.draw(3, attempt=1)) != key(one[3])


def test_tiles_lie_in_the_image_and_have_the_stated_size(dicts):
    requests = TileRequests(dicts, distribution(), seed=0)
    for request in map(requests.draw, range(300)):
        assert request.window == request.window.clip(request.record.image_size)
        assert request.window.width == round(SIZE * request.downsample)
        assert request.window.height == request.window.width
        assert request.downsample * SIZE == pytest.approx(request.window.width, abs=1e-9)


def is_empty(request):
    return not (visible_share(request.record.boxes_xyxy, request.window) > 0).any()


def test_share_of_empty_tiles(dicts):
    requests = TileRequests(dicts, distribution(empty_share=0.3), seed=1)
    share = np.mean([is_empty(requests[i]) for i in range(1000)])
    assert share == pytest.approx(0.3, abs=0.05)  # 3.4 standard deviations
    requests = TileRequests(dicts, distribution(empty_share=0.0), seed=1)
    assert not any(is_empty(requests[i]) for i in range(300))


def test_every_object_tile_shows_an_object_whole_or_is_full_of_it(dicts):
    requests = TileRequests(dicts, distribution(empty_share=0.0), seed=1)
    whole = [
        (visible_share(r.record.boxes_xyxy, r.window) > 0.999).any()
        for r in map(requests.draw, range(200))
    ]
    assert all(whole)


def test_object_lands_log_uniformly_in_the_size_range():
    boxes = [[1000, 1000, 1200, 1400]]
    options = distribution(empty_share=0.0, scale_jitter=0.0)
    requests = TileRequests([make_dict(1, boxes)], options, seed=2)
    sizes = np.array([400 / requests[i].downsample for i in range(500)])
    assert 15.8 < sizes.min() < 17 and 76 < sizes.max() < 80.5
    middle = np.sqrt(16 * 80)  # half of the tiles lie below the geometric mean
    assert (sizes < middle).mean() == pytest.approx(0.5, abs=0.08)


def test_scale_jitter_widens_the_range():
    boxes = [[1000, 1000, 1200, 1400]]
    options = distribution(empty_share=0.0, scale_jitter=0.5)
    requests = TileRequests([make_dict(1, boxes)], options, seed=2)
    sizes = np.array([400 / requests[i].downsample for i in range(500)])
    assert 16 / 1.5 - 0.2 < sizes.min() < 16 < 80 < sizes.max() < 80 * 1.5 + 1


def test_small_objects_are_enlarged_at_most_twice_and_only_as_needed():
    options = distribution(empty_share=0.0, scale_jitter=0.0)

    def downsamples(side):
        requests = TileRequests([make_dict(1, [[500, 500, 505, 500 + side]])], options, seed=0)
        return np.array([requests[i].downsample for i in range(100)])

    assert (downsamples(4) == 0.5).all()
    np.testing.assert_allclose(downsamples(12), 12 / 16)
    assert downsamples(40).min() == 1.0 and downsamples(40).max() > 2


def test_objects_larger_than_a_tile_still_give_tiles_inside_them():
    options = distribution(empty_share=0.0, object_size_range=(300.0, 300.0), scale_jitter=0.0)
    requests = TileRequests([make_dict(1, [[1000, 1000, 1900, 1900]])], options, seed=0)
    for request in map(requests.draw, range(20)):
        assert request.downsample == 3.0
        x, y, x2, y2 = request.window.xyxy
        assert x >= 1000 and y >= 1000 and x2 <= 1900 and y2 <= 1900


def test_images_smaller_than_a_tile_keep_within_themselves():
    item = make_dict(1, [[10, 10, 30, 50]], size=(60, 90))
    requests = TileRequests([item], distribution(empty_share=0.0), seed=0)
    for request in map(requests.draw, range(20)):
        assert request.window.clip((60, 90)) == request.window
        assert request.downsample <= 90 / SIZE or request.downsample == 0.5


def test_sparse_images_and_rare_classes_are_not_drowned():
    crowd = make_dict(1, random_boxes(900, 1), classes=[0] * 890 + [1] * 10)
    sparse = make_dict(2, random_boxes(9, 2))
    requests = TileRequests([crowd, sparse], distribution(empty_share=0.0), seed=0)
    images = np.array([requests[i].record.image_id for i in range(800)])
    assert (images == 2).mean() == pytest.approx(1 / 11, abs=0.04)  # by boxes it would be 1 %
    rng = np.random.default_rng(0)
    record = requests.records[0]
    rare = record.boxes_xyxy[record.classes == 1]
    picked = [requests._pick_object(rng) for _ in range(800)]
    hits = [r is record and (rare == b).all(axis=1).any() for r, b in picked]
    assert np.mean(hits) > 3 * 10 / 909


def test_ignore_regions_are_not_objects_and_not_empty():
    region = [0, 0, 4000, 1500]
    item = make_dict(1, [region, [100, 2000, 150, 2100]], crowd=(0,))
    requests = TileRequests([item], distribution(empty_share=1.0), seed=0)
    empty = [r for r in map(requests.draw, range(100)) if is_empty(r)]
    assert len(empty) > 80
    assert all(request.window.y >= 1500 for request in empty)
    requests = TileRequests([item], distribution(empty_share=0.0), seed=0)
    for request in map(requests.draw, range(50)):
        assert visible_share(request.record.boxes_xyxy, request.window)[1] > 0.999


def test_full_images_give_object_tiles_in_place_of_empty_ones():
    full = make_dict(1, [[0, 0, 4000, 3000], [50, 50, 90, 90]])
    requests = TileRequests([full], distribution(empty_share=1.0), seed=0)
    assert not is_empty(requests[0])


def test_background_alone():
    requests = TileRequests([make_dict(1, [])], distribution(empty_share=1.0), seed=0)
    assert {requests[i].downsample for i in range(10)} == {1.0}


@pytest.mark.parametrize(
    "items", [[], [make_dict(1, [])], [make_dict(1, [[0, 0, 9, 9]], crowd=(0,))]]
)
def test_nothing_to_train_on(items):
    with pytest.raises(DatasetError, match="with 0 objects"):
        TileRequests(items, distribution(), seed=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0},
        {"object_size_range": (0.0, 10.0)},
        {"object_size_range": (20.0, 10.0)},
        {"empty_share": 1.5},
        {"scale_jitter": -0.1},
    ],
)
def test_impossible_distributions(changes):
    with pytest.raises(ConfigError, match=r"INPUT\.TILE"):
        distribution(**changes)


def test_ranks_deal_all_numbers_between_them():
    parts = [list(islice(TileSampler(rank, 3), 5)) for rank in range(3)]
    assert sorted(number for part in parts for number in part) == list(range(15))
    assert parts[1] == [1, 4, 7, 10, 13]


def test_start_continues_where_training_stopped():
    assert list(islice(TileSampler(1, 2, start=4), 3)) == list(islice(TileSampler(1, 2), 7))[4:]


@pytest.mark.parametrize(("rank", "world", "start"), [(2, 2, 0), (-1, 2, 0), (0, 1, -3)])
def test_impossible_ranks(rank, world, start):
    with pytest.raises(ConfigError, match="0 <= rank < world_size"):
        TileSampler(rank, world, start)
