"""Drawn scenes: a square with roads and lawns, people in groups, vehicles on the roads, scenery.

The view is that of a high camera: things grow from the top of the picture, where they are far away,
to its bottom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from sparsenet.data.scenes.figures import PERSON_ASPECT, draw_person
from sparsenet.data.scenes.paving import DrawnGround, Road
from sparsenet.data.scenes.pen import sprite_size
from sparsenet.data.scenes.scene import PERSON, SCENERY, VEHICLE, Placement, contact_shadow
from sparsenet.data.scenes.scenery import SCENERY_KINDS, draw_scenery
from sparsenet.data.scenes.vehicles import KINDS, draw_vehicle, vehicle_aspect

# Height of a grown person at the top and at the bottom of a large scene, in pixels. In small scenes
# the nearest person is a fixed share of the scene, so that several fit.
_FAR_HEIGHT, _NEAR_HEIGHT, _NEAR_SHARE = 40.0, 640.0, 0.085
_GROWTH = 1.8  # exponent of the growth from far to near
_LONGEST_VEHICLE = 1300  # px; nearer roads carry only shorter ones
# With these numbers about a third of all 1024-px tiles of a large scene hold an object.
_GROUPS_PER_SCENE = 24
_SCENERY_PER_SCENE = 90
_ROADS_PER_SCENE = 5


@dataclass(frozen=True)
class Perspective:
    """Size by depth.

    Args:
        size: ``(height, width)`` of the scene in pixels.
    """

    size: tuple[int, int]

    def person_height(self, y: float) -> float:
        """Height in pixels of a grown person whose feet are in row ``y``."""
        near = min(_NEAR_HEIGHT, max(2 * _FAR_HEIGHT, _NEAR_SHARE * self.size[0]))
        depth = float(np.clip(y / self.size[0], 0, 1))
        return _FAR_HEIGHT + (near - _FAR_HEIGHT) * depth**_GROWTH


def draw_scene(
    size: tuple[int, int], *, seed: int, density: float = 1.0
) -> tuple[DrawnGround, list[Placement]]:
    """The ground and the placements of a drawn scene.

    Args:
        size: ``(height, width)`` in pixels.
        seed: Chooses everything.
        density: Factor on the number of groups, vehicles and scenery.
    """
    rng = np.random.default_rng([seed, 2])
    view = Perspective(size)
    roads = _plan_roads(view, rng)
    ground = DrawnGround(size, roads, seed=seed)
    plan = _Plan(view, seed, [])
    for road in roads:
        _drive(plan, road, density, rng)
    for _ in range(round(_GROUPS_PER_SCENE * density)):
        _gather(plan, rng)
    for _ in range(round(_SCENERY_PER_SCENE * density)):
        _furnish(plan, roads, rng)
    return ground, plan.placements


@dataclass
class _Plan:
    """Placements so far; adding one numbers it, which seeds its look."""

    view: Perspective
    seed: int
    placements: list[Placement]

    def add(
        self,
        category: int,
        feet: tuple[float, float],
        size: tuple[int, int],
        draw: Callable[..., np.ndarray],
    ) -> None:
        """Puts a sprite of ``size`` with its feet at ``(x, y)``, and its shadow."""
        x, y = round(feet[0] - size[1] / 2), round(feet[1] - size[0])
        seed = (self.seed, 3, len(self.placements))
        placement = Placement(category, x, y, size, feet[1], partial(draw, seed=seed))
        breadth = 1.15 if category == VEHICLE else 0.75
        self.placements += [contact_shadow(placement, 0.4, breadth), placement]


def _plan_roads(view: Perspective, rng: np.random.Generator) -> list[Road]:
    """Horizontal roads at different depths, and one that comes towards the camera."""
    height, width = view.size
    roads = []
    slots = np.linspace(0.06, 0.86, _ROADS_PER_SCENE)
    for slot in slots[rng.random(_ROADS_PER_SCENE) < 0.5]:
        y = (slot + rng.uniform(-0.05, 0.05)) * height
        breadth = 2.6 * view.person_height(y)
        crossing = rng.uniform(0.1, 0.9) * width if rng.random() < 0.7 else None
        roads.append(Road(max(0.0, y - breadth / 2), breadth, crossing))
    if not roads:
        roads.append(Road(0.3 * height, 2.6 * view.person_height(0.3 * height), 0.5 * width))
    return roads


def _drive(plan: _Plan, road: Road, density: float, rng: np.random.Generator) -> None:
    """Vehicles on the two lanes of a road, in columns with gaps."""
    width = plan.view.size[1]
    for lane in (0.42, 0.9):
        y = road.top + lane * road.breadth
        unit = plan.view.person_height(y)
        x = float(rng.uniform(0, 0.4) * width)
        while x < width:
            kind = KINDS[rng.choice(len(KINDS), p=[k.share for k in KINDS])]
            height = kind.height * unit
            if height * kind.length > _LONGEST_VEHICLE:
                kind = KINDS[0]
                height = min(kind.height * unit, _LONGEST_VEHICLE / kind.length)
            view = str(rng.choice(["side", "corner", "front", "rear"], p=[0.7, 0.1, 0.1, 0.1]))
            size = sprite_size(max(10, round(height)), vehicle_aspect(kind, view))
            feet = x, y + rng.normal(0, 0.03) * road.breadth
            plan.add(VEHICLE, feet, size, partial(draw_vehicle, size[0], kind, view))
            queue = rng.random() < 0.7
            gap = rng.exponential(0.015 * width) if queue else rng.uniform(0.2, 0.6) * width
            x += height * kind.length * 1.1 + gap / max(0.05, density)


def _gather(plan: _Plan, rng: np.random.Generator) -> None:
    """One group of people: a few, or a crowd in which they hide each other."""
    height, width = plan.view.size
    # Far away there is more room: groups thin out towards the camera.
    y0, x0 = (0.02 + 0.98 * rng.beta(1.1, 1.6)) * height, rng.uniform(0.01, 0.99) * width
    unit = plan.view.person_height(y0)
    count = int(rng.integers(1, 7)) if rng.random() < 0.6 else int(rng.integers(12, 36))
    spread = unit * (0.5 + 0.22 * np.sqrt(count))
    for _ in range(count):
        x = x0 + rng.normal(0, 1.0) * spread
        y = float(np.clip(y0 + rng.normal(0, 0.5) * spread, 0.01 * height, 1.02 * height))
        child = rng.random() < 0.1
        tall = rng.uniform(0.55, 0.8) if child else rng.normal(1, 0.06)
        tall = plan.view.person_height(y) * float(np.clip(tall, 0.5, 1.15))
        size = sprite_size(max(10, round(tall)), PERSON_ASPECT)
        plan.add(PERSON, (x, y), size, partial(draw_person, size[0]))


def _furnish(plan: _Plan, roads: list[Road], rng: np.random.Generator) -> None:
    """One piece of scenery, not on a road."""
    height, width = plan.view.size
    y, x = rng.uniform(0.03, 1.0) * height, rng.uniform(0, 1) * width
    if any(r.top < y < r.top + r.breadth for r in roads):
        return
    names = list(SCENERY_KINDS)
    name = names[rng.choice(len(names), p=[SCENERY_KINDS[n][2] for n in names])]
    rise, aspect, _ = SCENERY_KINDS[name]
    tall = plan.view.person_height(y) * rise * rng.uniform(0.75, 1.25)
    size = sprite_size(max(10, round(tall)), aspect)
    plan.add(SCENERY, (x, y), size, partial(draw_scenery, size[0], name))
