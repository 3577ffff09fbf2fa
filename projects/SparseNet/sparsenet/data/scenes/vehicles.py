"""Vehicles drawn by our own code: cars, vans, trucks and buses, from several sides."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sparsenet.data.scenes.pen import Colour, Pen, Point, finish, pick, scaled, sprite_size

_PAINT: tuple[Colour, ...] = (
    (232, 232, 230), (190, 194, 198), (120, 124, 130), (44, 46, 52), (24, 25, 30), (150, 30, 34),
    (196, 60, 40), (30, 58, 122), (66, 112, 168), (46, 86, 60), (214, 178, 60), (140, 112, 80),
    (110, 40, 70),
)  # fmt: skip
_GLASS: Colour = (58, 70, 82)
_RUBBER: Colour = (26, 26, 28)
_DARK: Colour = (40, 40, 44)
_LAMP: Colour = (246, 240, 214)
_TAIL: Colour = (176, 24, 26)
_PLATE: Colour = (226, 226, 214)


@dataclass(frozen=True)
class VehicleKind:
    """Proportions of a kind of vehicle.

    Args:
        name: ``car``, ``van``, ``truck`` or ``bus``.
        height: In heights of a grown person.
        length: Side view, length over height.
        breadth: Front view, width over height.
        share: How frequent it is.
    """

    name: str
    height: float
    length: float
    breadth: float
    share: float


KINDS = (
    VehicleKind("car", 0.86, 2.95, 1.22, 0.66),
    VehicleKind("van", 1.22, 2.35, 0.95, 0.16),
    VehicleKind("truck", 1.7, 2.6, 0.82, 0.09),
    VehicleKind("bus", 1.78, 3.5, 0.8, 0.09),
)
VIEWS = ("side", "front", "rear", "corner")
_FORESHORTENED = 0.72, 0.6  # side and end of a box seen at a corner


def vehicle_aspect(kind: VehicleKind, view: str) -> float:
    """Width over height of a vehicle in one of ``VIEWS``."""
    if view == "corner" and kind.name == "bus":
        return _FORESHORTENED[0] * kind.length + _FORESHORTENED[1] * kind.breadth
    return kind.length if view in ("side", "corner") else kind.breadth


def draw_vehicle(height: int, kind: VehicleKind, view: str, seed: tuple[int, ...]) -> np.ndarray:
    """A vehicle of ``height`` pixels; the same pixels for the same arguments.

    Args:
        height: In pixels.
        kind: One of ``KINDS``.
        view: One of ``VIEWS``. Only buses are boxes that have a corner; others show the side.
        seed: Chooses colour, details and light.

    Returns:
        RGBA uint8 of ``sprite_size(height, vehicle_aspect(kind, view))``.
    """
    rng = np.random.default_rng(seed)
    paint = pick(rng, _PAINT, 8)
    if view == "corner" and kind.name == "bus":
        side = _side(height, kind, paint, rng)
        canvas = _corner(side, _end(height, kind, scaled(paint, 0.86), True, rng))
    elif view in ("side", "corner"):
        canvas = _side(height, kind, paint, rng)
    else:
        canvas = _end(height, kind, paint, view == "front", rng)
    canvas = cv2.flip(canvas, 1) if rng.random() < 0.5 else canvas
    return finish(canvas, sprite_size(height, vehicle_aspect(kind, view)), rng, folds=0.03)


def _side(height: int, kind: VehicleKind, paint: Colour, rng: np.random.Generator) -> np.ndarray:
    """Facing right."""
    pen = Pen(height, kind.length)
    draw = {"car": _car_side, "van": _van_side, "truck": _truck_side, "bus": _bus_side}[kind.name]
    draw(pen, kind.length / 2, paint, rng)
    return pen.canvas


def _wheel(pen: Pen, x: float, radius: float) -> None:
    y = 0.995 - radius
    pen.ellipse((x, y), (radius * 1.14, radius * 1.14), scaled(_DARK, 0.7))
    pen.ellipse((x, y), (radius, radius), _RUBBER)
    pen.ellipse((x, y), (radius * 0.6, radius * 0.6), (150, 152, 156))
    pen.ellipse((x, y), (radius * 0.2, radius * 0.2), _DARK)


def _car_side(pen: Pen, half: float, paint: Colour, rng: np.random.Generator) -> None:
    hatch = rng.uniform(0, 1)  # 0: saloon with a boot, 1: estate
    rear_roof = -half * (0.42 + 0.4 * hatch)
    roof: list[Point] = [
        (-half * (0.68 + 0.28 * hatch), 0.44), (rear_roof, 0.06), (-half * 0.2, 0.01),
        (half * 0.12, 0.03), (half * 0.46, 0.42),
    ]  # fmt: skip
    body: list[Point] = [
        (-half * 0.97, 0.47), (-half * 0.6, 0.42), (half * 0.46, 0.41), (half * 0.86, 0.49),
        (half * 0.985, 0.6), (half * 0.985, 0.8), (half * 0.9, 0.86), (-half * 0.93, 0.86),
        (-half * 0.99, 0.74),
    ]  # fmt: skip
    pen.polygon(roof, scaled(paint, 0.97))
    pen.polygon(body, paint)
    pen.polygon([(p[0], max(p[1], 0.66)) for p in body], scaled(paint, 0.8))
    window: list[Point] = [
        (-half * (0.58 + 0.26 * hatch), 0.41), (rear_roof * 0.97, 0.12), (half * 0.09, 0.09),
        (half * 0.36, 0.41),
    ]  # fmt: skip
    pen.polygon(window, _GLASS)
    pen.polygon([(-half * 0.2, 0.1), (-half * 0.12, 0.1), (-half * 0.3, 0.41)], scaled(_GLASS, 1.6))
    for x in (-half * 0.22, half * 0.1):
        pen.box(x, 0.08, x + 0.035, 0.8, scaled(paint, 0.72))
    pen.box(-half * 0.06, 0.5, half * 0.0, 0.525, scaled(paint, 0.55))
    pen.ellipse((half * 0.93, 0.57), (0.09, 0.05), _LAMP)
    pen.box(-half * 0.985, 0.5, -half * 0.92, 0.6, _TAIL)
    pen.box(-half * 0.93, 0.83, half * 0.93, 0.88, _DARK)
    for x in (-half * 0.62, half * 0.63):
        _wheel(pen, x, 0.21)


def _van_side(pen: Pen, half: float, paint: Colour, rng: np.random.Generator) -> None:
    body: list[Point] = [
        (-half * 0.98, 0.05), (half * 0.42, 0.02), (half * 0.68, 0.36), (half * 0.97, 0.5),
        (half * 0.985, 0.86), (-half * 0.985, 0.87),
    ]  # fmt: skip
    pen.polygon(body, paint)
    pen.polygon([(p[0], max(p[1], 0.7)) for p in body], scaled(paint, 0.82))
    pen.polygon(
        [(half * 0.22, 0.12), (half * 0.4, 0.12), (half * 0.6, 0.4), (half * 0.22, 0.4)], _GLASS
    )
    if rng.random() < 0.5:  # a minibus
        for x in np.linspace(-half * 0.9, -half * 0.1, 3):
            pen.box(float(x), 0.13, float(x) + half * 0.28, 0.4, _GLASS)
    else:
        pen.box(-half * 0.8, 0.3, -half * 0.1, 0.48, pick(rng, _PAINT))
    pen.box(half * 0.18, 0.1, half * 0.19, 0.85, scaled(paint, 0.6))
    pen.ellipse((half * 0.94, 0.58), (0.05, 0.05), _LAMP)
    pen.box(-half * 0.985, 0.5, -half * 0.94, 0.64, _TAIL)
    for x in (-half * 0.62, half * 0.62):
        _wheel(pen, x, 0.15)


def _truck_side(pen: Pen, half: float, paint: Colour, rng: np.random.Generator) -> None:
    load = pick(rng, _PAINT)
    pen.box(-half * 0.98, 0.78, half * 0.96, 0.87, _DARK)
    pen.box(-half * 0.99, 0.02, half * 0.46, 0.8, load)
    for x in np.linspace(-half * 0.9, half * 0.36, int(rng.integers(3, 9))):
        pen.box(float(x), 0.03, float(x) + 0.015, 0.79, scaled(load, 0.86))
    cab: list[Point] = [
        (half * 0.52, 0.2), (half * 0.84, 0.2), (half * 0.95, 0.5), (half * 0.985, 0.86),
        (half * 0.52, 0.86),
    ]  # fmt: skip
    pen.polygon(cab, paint)
    pen.polygon(
        [(half * 0.6, 0.27), (half * 0.82, 0.27), (half * 0.9, 0.5), (half * 0.6, 0.5)], _GLASS
    )
    pen.ellipse((half * 0.955, 0.7), (0.02, 0.03), _LAMP)
    for x in (-half * 0.72, -half * 0.45, half * 0.74):
        _wheel(pen, x, 0.11)


def _bus_side(pen: Pen, half: float, paint: Colour, rng: np.random.Generator) -> None:
    pen.polygon(
        [(-half * 0.985, 0.04), (half * 0.95, 0.03), (half * 0.99, 0.12), (half * 0.99, 0.9),
         (-half * 0.99, 0.9)],
        paint,
    )  # fmt: skip
    pen.box(-half * 0.97, 0.16, half * 0.985, 0.5, _GLASS)
    for x in np.linspace(-half * 0.97, half * 0.8, int(rng.integers(6, 11))):
        pen.box(float(x), 0.14, float(x) + 0.03, 0.52, scaled(paint, 0.8))
    pen.box(-half * 0.985, 0.6, half * 0.985, 0.66, pick(rng, _PAINT))
    for x in (half * 0.62, -half * 0.12):  # doors
        pen.box(x, 0.17, x + half * 0.16, 0.86, scaled(_GLASS, 0.8))
        pen.box(x + half * 0.075, 0.17, x + half * 0.085, 0.86, _DARK)
    pen.box(-half * 0.985, 0.86, half * 0.985, 0.91, _DARK)
    for x in (-half * 0.62, half * 0.46):
        _wheel(pen, x, 0.105)


def _end(
    height: int, kind: VehicleKind, paint: Colour, front: bool, rng: np.random.Generator
) -> np.ndarray:
    """Front or rear."""
    pen = Pen(height, kind.breadth)
    half = kind.breadth / 2
    low = kind.name == "car"
    shoulder = 0.45 if low else 0.12
    for x in (-half * 0.76, half * 0.76):
        pen.box(x - half * 0.13, 0.7, x + half * 0.13, 0.995, _RUBBER)
    if low:
        pen.polygon(
            [(-half * 0.9, 0.47), (-half * 0.66, 0.03), (half * 0.66, 0.03), (half * 0.9, 0.47)],
            paint,
        )
        pen.polygon(
            [(-half * 0.8, 0.43), (-half * 0.6, 0.1), (half * 0.6, 0.1), (half * 0.8, 0.43)], _GLASS
        )
    pen.polygon(
        [(-half * 0.95, shoulder), (-half * 0.88, shoulder - 0.08), (half * 0.88, shoulder - 0.08),
         (half * 0.95, shoulder), (half * 0.985, 0.62), (half * 0.97, 0.9), (-half * 0.97, 0.9),
         (-half * 0.985, 0.62)],
        paint,
    )  # fmt: skip
    if low:
        pen.polygon(
            [(-half * 0.8, 0.43), (-half * 0.75, 0.35), (half * 0.75, 0.35), (half * 0.8, 0.43)],
            _GLASS,
        )
    elif front or kind.name == "bus":
        pen.box(-half * 0.84, 0.14, half * 0.84, 0.5, _GLASS)
    else:  # doors of a box
        pen.box(-half * 0.01, 0.08, half * 0.01, 0.86, scaled(paint, 0.6))
    _end_details(pen, half, front, rng)
    return pen.canvas


def _end_details(pen: Pen, half: float, front: bool, rng: np.random.Generator) -> None:
    lamp, y = (_LAMP, 0.62) if front else (_TAIL, 0.58)
    for side in (-1, 1):
        pen.ellipse((side * half * 0.76, y), (half * 0.17, 0.055), lamp)
    if front:
        pen.box(-half * 0.45, 0.58, half * 0.45, 0.68, _DARK)
        for side in (-1, 1):  # mirrors
            pen.ellipse((side * half * 0.97, 0.42), (half * 0.05, 0.04), _DARK)
    pen.box(-half * 0.24, 0.74, half * 0.24, 0.81, _PLATE)
    pen.box(-half * 0.95, 0.84, half * 0.95, 0.9, scaled(_DARK, float(rng.uniform(0.7, 1.3))))


def _corner(side: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Side and end as two faces of a box, foreshortened towards both sides."""
    height = side.shape[0]
    widths = [int(f.shape[1] * s) for f, s in zip((side, end), _FORESHORTENED, strict=True)]
    canvas = np.zeros((height, sum(widths), 4), np.uint8)
    left = _warp(side, widths[0], height, (0.14, 0.0), (0.93, 1.0))
    right = _warp(end, widths[1], height, (0.0, 0.1), (1.0, 0.95))
    canvas[:, : widths[0]] = left
    canvas[:, widths[0] :] = right
    return canvas


def _warp(image: np.ndarray, width: int, height: int, tops: Point, bottoms: Point) -> np.ndarray:
    """The image between the rows ``tops`` and ``bottoms`` (left, right), shares of ``height``."""
    h, w = image.shape[:2]
    source = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    target = np.array(
        [(0, tops[0] * height), (width, tops[1] * height), (width, bottoms[1] * height),
         (0, bottoms[0] * height)], np.float32
    )  # fmt: skip
    matrix = cv2.getPerspectiveTransform(source, target)
    return cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
