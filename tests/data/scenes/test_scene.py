"""Composed scenes: truth, drawn figures, perspective."""

import numpy as np
import pytest

from sparsenet.data.scenes.drawn import Perspective, draw_scene
from sparsenet.data.scenes.figures import PERSON_ASPECT, draw_person
from sparsenet.data.scenes.paving import DrawnGround, Road
from sparsenet.data.scenes.pen import sprite_size
from sparsenet.data.scenes.scene import (
    PERSON,
    SCENERY,
    VEHICLE,
    Placement,
    SceneComposer,
    TruthOptions,
    contact_shadow,
)
from sparsenet.data.scenes.scenery import SCENERY_KINDS, draw_scenery
from sparsenet.data.scenes.vehicles import KINDS, VIEWS, draw_vehicle, vehicle_aspect
from sparsenet.errors import ConfigError


class FlatGround:
    """A grey ground."""

    def __init__(self, size):
        self.size = size

    def band(self, top, bottom):
        return np.full((bottom - top, self.size[1], 3), 100, np.uint8)


def block(category, x, y, size, depth, colour=(200, 0, 0)):
    """An opaque rectangle."""
    sprite = np.zeros((*size, 4), np.uint8)
    sprite[...] = (*colour, 255)
    return Placement(category, x, y, size, depth, lambda: sprite)


def compose(placements, size=(100, 120), band_height=32, **options):
    composer = SceneComposer(FlatGround(size), placements, band_height=band_height)
    image = np.concatenate(list(composer.bands()))
    return image, composer.truth(TruthOptions(**options)) if options else composer.truth()


# --- composer ---------------------------------------------------------------------------------


def test_truth_is_the_visible_extent():
    far = block(PERSON, 10, 10, (60, 20), depth=70)
    near = block(VEHICLE, 5, 40, (40, 40), depth=80, colour=(0, 0, 200))
    image, truth = compose([near, far])  # given in the wrong order: depth decides
    assert [t["bbox"] for t in truth] == [[10, 10, 20, 30], [5, 40, 40, 40]]
    assert truth[0]["visibility"] == 0.5 and truth[0]["area"] == 600
    assert truth[1]["visibility"] == 1.0 and truth[1]["iscrowd"] == 0
    assert image[45, 15].tolist() == [0, 0, 200] and image[20, 15].tolist() == [200, 0, 0]


@pytest.mark.parametrize("band_height", [1, 7, 33, 1000])
def test_bands_do_not_change_the_scene(band_height):
    rng = np.random.default_rng(3)
    placements = [
        block(PERSON, int(x), int(y), (30, 12), depth=float(y), colour=(int(x) + 20, 9, 9))
        for x, y in rng.integers(-10, 100, (25, 2))
    ]
    expected_image, expected_truth = compose(placements, band_height=100)
    image, truth = compose(placements, band_height=band_height)
    np.testing.assert_array_equal(image, expected_image)
    assert truth == expected_truth


def test_hidden_and_small_objects_are_ignored_and_invisible_ones_left_out():
    covered = block(PERSON, 0, 0, (40, 20), depth=1)
    mostly = block(PERSON, 30, 0, (40, 20), depth=2)
    small = block(PERSON, 80, 0, (8, 4), depth=3)
    screens = [block(SCENERY, 0, 0, (40, 20), 4), block(SCENERY, 30, 0, (30, 20), 5)]
    _, truth = compose([covered, mostly, small, *screens], min_visible=0.35, min_side=12)
    assert [(t["bbox"], t["iscrowd"]) for t in truth] == [
        ([30, 30, 20, 10], 1),
        ([80, 0, 4, 8], 1),
    ]
    assert truth[0]["visibility"] == 0.25


def test_what_is_outside_the_image_counts_as_hidden():
    _, truth = compose([block(PERSON, -15, 60, (80, 20), depth=1)])
    assert truth[0]["bbox"] == [0, 60, 5, 40]
    assert truth[0]["visibility"] == pytest.approx(5 * 40 / (20 * 80))


def test_shadows_and_soft_edges_hide_nothing():
    person = block(PERSON, 40, 10, (50, 20), depth=1)
    other = block(PERSON, 40, 45, (40, 20), depth=2)
    shadow = contact_shadow(other, strength=0.9)
    image, truth = compose([person, shadow, other])
    assert truth[0]["visibility"] == pytest.approx(0.7)
    assert shadow.category_id == SCENERY and shadow.render().max() < 128
    assert image[82:88, 36:40].min() < 100, "the ground beside the feet is darker"


def test_too_many_sprites_are_refused():
    with pytest.raises(ConfigError, match="at most 65534 sprites, got 65535"):
        SceneComposer(FlatGround((10, 10)), [block(PERSON, 0, 0, (1, 1), 0)] * 65_535)


# --- drawn figures ----------------------------------------------------------------------------


@pytest.mark.parametrize("height", [12, 90, 333])
def test_figures_have_their_declared_size_and_fill_it(height):
    person = draw_person(height, (1, 2, 3))
    assert person.shape == (*sprite_size(height, PERSON_ASPECT), 4)
    rows = np.flatnonzero((person[..., 3] > 128).any(1))
    assert rows[0] <= 0.06 * height and rows[-1] >= 0.94 * height - 1, "from head to toe"
    for kind in KINDS:
        for view in VIEWS:
            vehicle = draw_vehicle(height, kind, view, (1, 2, 3))
            assert vehicle.shape == (*sprite_size(height, vehicle_aspect(kind, view)), 4)
            assert (vehicle[..., 3] > 128).mean() > 0.5
    for name, (_, aspect, _) in SCENERY_KINDS.items():
        assert draw_scenery(height, name, (1,)).shape == (*sprite_size(height, aspect), 4)


def test_figures_depend_on_the_seed_only():
    np.testing.assert_array_equal(draw_person(80, (1, 2)), draw_person(80, (1, 2)))
    looks = {draw_person(80, (1, i)).tobytes() for i in range(20)}
    assert len(looks) == 20


def test_drawn_ground_is_the_same_in_any_bands():
    roads = [Road(90.0, 60.0, 200.0)]
    whole = DrawnGround((300, 500), roads, seed=4).band(0, 300)
    ground = DrawnGround((300, 500), roads, seed=4)
    parts = [ground.band(top, min(300, top + 77)) for top in range(0, 300, 77)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.reshape(-1, 3).std(0).min() > 5, "textured"
    assert not np.array_equal(whole, DrawnGround((300, 500), roads, seed=5).band(0, 300))


def test_people_grow_towards_the_camera():
    view = Perspective((12_288, 17_408))
    heights = [view.person_height(y) for y in (0, 3000, 6000, 12_288)]
    assert heights == sorted(heights) and heights[0] == 40 and heights[-1] == 640
    _, placements = draw_scene((3000, 4000), seed=1)
    for category in (PERSON, VEHICLE, SCENERY):
        assert sum(p.category_id == category for p in placements) > 3


def test_pixels_differ_from_the_ground_only_near_objects():
    """The boxes are where something was painted."""
    _, placements = draw_scene((900, 1200), seed=8, density=0.3)
    objects = [p for p in placements if p.category_id in (PERSON, VEHICLE)]
    painted, truth = compose(objects, size=(900, 1200), band_height=400, min_visible=0.0)
    assert len(truth) > 20
    bare = np.full_like(painted, 100)
    changed = (painted != bare).any(-1)
    inside = np.zeros_like(changed)
    for annotation in truth:
        x, y, w, h = annotation["bbox"]
        edge = 2 + h // 8  # hands and feet of small figures cover less than half a pixel
        inside[max(0, y - edge) : y + h + edge, max(0, x - edge) : x + w + edge] = True
        assert changed[y : y + h, x : x + w].mean() > 0.25
    assert not (changed & ~inside).any(), "nothing is painted outside the boxes' soft edges"
