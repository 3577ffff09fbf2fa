"""People drawn by our own code: poses, views, clothes, skin, hair and bags vary."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sparsenet.data.scenes.pen import Colour, Pen, Point, finish, pick, scaled, sprite_size

_SKIN: tuple[Colour, ...] = (
    (244, 208, 177), (231, 184, 148), (208, 153, 112), (166, 112, 78), (116, 76, 54), (82, 54, 42),
)  # fmt: skip
_HAIR: tuple[Colour, ...] = (
    (28, 24, 22), (46, 32, 24), (84, 56, 34), (132, 94, 52), (190, 154, 96), (150, 150, 150),
    (112, 48, 28),
)  # fmt: skip
_CLOTH: tuple[Colour, ...] = (
    (34, 36, 42), (60, 64, 74), (116, 120, 126), (206, 206, 200), (240, 238, 232), (150, 32, 36),
    (196, 72, 44), (214, 168, 60), (58, 104, 62), (36, 84, 120), (44, 60, 124), (96, 130, 178),
    (118, 66, 120), (206, 132, 152), (142, 106, 74), (88, 74, 54),
)  # fmt: skip
_TROUSERS: tuple[Colour, ...] = (
    (30, 32, 38), (44, 52, 76), (62, 82, 122), (92, 112, 146), (110, 104, 92), (168, 152, 122),
    (196, 192, 182), (74, 62, 50),
)  # fmt: skip
PERSON_ASPECT = 0.72  # of the sprite; the figure itself is narrower

# Heights of the joints in units of the body height.
_NECK, _SHOULDER, _HIP, _KNEE, _ANKLE = 0.145, 0.19, 0.5, 0.73, 0.945


@dataclass(frozen=True)
class Person:
    """How one person looks, drawn from a generator."""

    side: bool
    back: bool
    walking: bool
    stride: float
    build: float
    lean: float
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    legs: str
    sleeves: str
    hairstyle: str
    pattern: str
    bag: str
    bag_colour: Colour

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Person:
        """A random person."""

        def choice(options: str, weights: tuple[float, ...]) -> str:
            return str(rng.choice(options.split(), p=np.array(weights) / sum(weights)))

        walking = bool(rng.random() < 0.6)
        return cls(
            side=bool(rng.random() < 0.45),
            back=bool(rng.random() < 0.4),
            walking=walking,
            stride=float(rng.uniform(0.35, 1.0) if walking else rng.uniform(0, 0.15)),
            build=float(rng.uniform(0.82, 1.28)),
            lean=float(rng.normal(0, 0.012)),
            skin=pick(rng, _SKIN, 6),
            hair=pick(rng, _HAIR, 6),
            shirt=pick(rng, _CLOTH),
            trousers=pick(rng, _TROUSERS),
            shoes=pick(rng, _CLOTH[:5]),
            legs=choice("trousers shorts skirt dress coat", (6, 1.6, 1, 0.8, 1)),
            sleeves=choice("long short", (3, 2)),
            hairstyle=choice("short long bun bald hat cap", (5, 3, 1, 0.6, 0.7, 1)),
            pattern=choice("plain stripes print jacket", (5, 1, 1, 2)),
            bag=choice("none backpack handbag shoulder", (5, 2, 1, 1)),
            bag_colour=pick(rng, _CLOTH),
        )


def draw_person(height: int, seed: tuple[int, ...]) -> np.ndarray:
    """A person of ``height`` pixels; the same pixels for the same arguments.

    Returns:
        RGBA uint8 of ``sprite_size(height, PERSON_ASPECT)``.
    """
    rng = np.random.default_rng(seed)
    person = Person.draw(rng)
    pen = Pen(height, PERSON_ASPECT)
    near, far = (1, -1) if rng.random() < 0.5 else (-1, 1)
    _arm(pen, person, far, scaled(person.shirt, 0.78))
    _leg(pen, person, far, 0.8)
    _leg(pen, person, near, 1.0)
    if person.bag == "backpack" and not person.back:
        _backpack(pen, person)
    _torso(pen, person, rng)
    _head(pen, person)
    if person.bag == "backpack" and person.back:
        _backpack(pen, person)
    _arm(pen, person, near, person.shirt)
    if person.bag in ("handbag", "shoulder"):
        _carried_bag(pen, person, near)
    canvas = cv2.flip(pen.canvas, 1) if rng.random() < 0.5 else pen.canvas
    return finish(canvas, sprite_size(height, PERSON_ASPECT), rng, folds=0.09)


def _leg(pen: Pen, person: Person, which: int, shade: float) -> None:
    build, swing = person.build, which * person.stride
    hip: Point = (which * (0.022 if person.side else 0.045) * build, _HIP)
    if person.side:
        knee: Point = (hip[0] + 0.075 * swing + 0.012, _KNEE)
        ankle: Point = (hip[0] + 0.15 * swing - (0.05 * person.stride if which < 0 else 0), _ANKLE)
    else:
        lift = 0.035 * max(0.0, -swing)
        knee = (which * 0.05 * build, _KNEE - lift / 2)
        ankle = (which * (0.048 + 0.01 * person.stride), _ANKLE - lift)
    thick = 0.088 * build
    cloth = scaled(person.trousers, shade)
    skin = scaled(person.skin, shade)
    bare = person.legs in ("shorts", "skirt", "dress")
    pen.limb(
        [knee, ankle], [thick * 0.62, thick * (0.38 if bare else 0.5)], skin if bare else cloth
    )
    thigh = skin if person.legs in ("skirt", "dress") else cloth
    pen.limb([hip, knee], [thick, thick * (0.8 if bare else 0.68)], thigh)
    toe = 0.055 if person.side else 0.008 * which
    shoe: Point = (ankle[0] + toe / 2, ankle[1] + 0.028)
    radii = (0.05, 0.024) if person.side else (0.03, 0.027)
    pen.ellipse(shoe, radii, scaled(person.shoes, shade))


def _arm(pen: Pen, person: Person, which: int, sleeve: Colour) -> None:
    build, swing = person.build, -which * person.stride
    if person.side:
        shoulder: Point = (person.lean, _SHOULDER + 0.015)
        elbow: Point = (shoulder[0] + 0.07 * swing - 0.015, 0.345)
        hand: Point = (elbow[0] + 0.07 * swing + 0.035, 0.475)
    else:
        shoulder = (which * 0.104 * build + person.lean, _SHOULDER + 0.015)
        elbow = (which * (0.128 * build + 0.012), 0.345)
        hand = (which * (0.125 * build + 0.01 * swing), 0.475 - 0.03 * max(0.0, swing))
    shade = sleeve[0] / max(1, person.shirt[0]) if person.shirt[0] else 1.0
    skin = scaled(person.skin, min(1.0, shade))
    thick = 0.054 * build
    long = person.sleeves == "long"
    pen.limb([elbow, hand], [thick * 0.8, thick * 0.6], sleeve if long else skin)
    pen.limb([shoulder, elbow], [thick * 1.15, thick * 0.85], sleeve)
    pen.ellipse(hand, (0.02, 0.026), skin)


def _torso(pen: Pen, person: Person, rng: np.random.Generator) -> None:
    build, lean = person.build, person.lean
    shoulder, waist, hip = (0.062, 0.056, 0.064) if person.side else (0.108, 0.082, 0.09)
    shoulder, waist, hip = shoulder * build, waist * build, hip * build
    top: list[Point] = [
        (-shoulder * 0.55 + lean, _NECK + 0.012),
        (shoulder * 0.55 + lean, _NECK + 0.012),
    ]
    right: list[Point] = [(shoulder + lean, _SHOULDER), (waist, 0.36), (hip, _HIP + 0.02)]
    left = [(2 * lean * (p[1] < 0.3) - p[0], p[1]) for p in reversed(right)]
    pen.limb(
        [(lean, 0.1), (lean, _NECK + 0.02)],
        [0.042 * build, 0.05 * build],
        scaled(person.skin, 0.85),
    )
    pen.polygon([*top, *right, *left], person.shirt)
    if person.legs in ("skirt", "dress", "coat"):
        _hem(pen, person, waist, hip)
    elif person.legs in ("trousers", "shorts"):
        pen.box(-hip, _HIP - 0.012, hip, _HIP + 0.035, person.trousers)
    if person.side:
        return
    if person.pattern == "stripes":
        tone = pick(rng, _CLOTH)
        for y in np.arange(0.21, 0.47, 0.045):
            pen.box(-waist * 0.98, float(y), waist * 0.98, float(y) + 0.016, tone)
    elif person.pattern == "print" and not person.back:
        pen.ellipse((lean, 0.28), (0.042, 0.035), pick(rng, _CLOTH))
    elif person.pattern == "jacket" and not person.back:
        inner = pick(rng, _CLOTH)
        pen.polygon(
            [(-0.03, _NECK + 0.01), (0.03, _NECK + 0.01), (0.022, 0.49), (-0.022, 0.49)], inner
        )


def _hem(pen: Pen, person: Person, waist: float, hip: float) -> None:
    """What hangs from the waist: a skirt in its own colour, or a dress or coat like the top."""
    colour = person.trousers if person.legs == "skirt" else person.shirt
    length = 0.7 if person.legs != "coat" else 0.66
    flare = hip * (1.45 if person.legs != "coat" else 1.15) + 0.03 * person.stride
    top = 0.44 if person.legs == "skirt" else 0.36
    pen.polygon([(-waist, top), (waist, top), (flare, length), (-flare, length)], colour)
    pen.polygon(
        [(0.2 * waist, top), (waist, top), (flare, length), (0.4 * flare, length)],
        scaled(colour, 0.86),
    )


def _head(pen: Pen, person: Person) -> None:
    x, y = person.lean * 1.6, 0.069
    wide = 0.05 if person.side else 0.045
    long = person.hairstyle in ("long", "bun")
    if person.hairstyle == "long":
        pen.polygon(
            [(x - 0.05, 0.06), (x + 0.05, 0.06), (x + 0.055, 0.19), (x - 0.055, 0.19)], person.hair
        )
    pen.ellipse((x, y), (wide, 0.062), person.skin)
    if person.hairstyle != "bald":
        if person.back and not person.side:
            pen.ellipse((x, y - 0.004), (wide * 1.06, 0.06 if long else 0.052), person.hair)
        else:
            pen.ellipse((x, y - 0.004), (wide * 1.08, 0.064), person.hair, (180, 360))
            if person.side:  # the back of the head
                pen.ellipse((x - 0.022, y), (0.033, 0.05), person.hair)
    if person.hairstyle == "bun":
        pen.ellipse((x - 0.03, 0.02), (0.022, 0.02), person.hair)
    if not person.back and not person.side:
        for eye in (-0.017, 0.017):
            pen.ellipse((x + eye, y + 0.002), (0.006, 0.004), (40, 30, 28))
        pen.box(x - 0.012, y + 0.034, x + 0.012, y + 0.038, scaled(person.skin, 0.6))
    if person.hairstyle in ("hat", "cap"):
        pen.ellipse((x, 0.05), (wide * 1.12, 0.05), person.bag_colour, (180, 360))
        brim = 0.085 if person.hairstyle == "hat" else 0.05
        pen.ellipse(
            (x + (0.035 if person.side else 0), 0.05), (brim, 0.01), scaled(person.bag_colour, 0.7)
        )


def _backpack(pen: Pen, person: Person) -> None:
    if person.side:
        pen.ellipse((-0.085 * person.build, 0.29), (0.05, 0.095), person.bag_colour)
    elif person.back:
        pen.ellipse((person.lean, 0.3), (0.075, 0.1), scaled(person.bag_colour, 0.8))
        pen.box(-0.055, 0.3, 0.055, 0.385, person.bag_colour)
    else:
        for x in (-0.06, 0.06):
            pen.limb([(x, 0.165), (x * 1.1, 0.33)], [0.018, 0.018], person.bag_colour)


def _carried_bag(pen: Pen, person: Person, which: int) -> None:
    x = which * (0.03 if person.side else 0.13 * person.build)
    low = 0.56 if person.bag == "handbag" else 0.47
    start: Point = (x, 0.46) if person.bag == "handbag" else (-x * 0.5, 0.18)
    pen.limb([start, (x, low - 0.04)], [0.012, 0.012], scaled(person.bag_colour, 0.7))
    pen.box(x - 0.05, low - 0.05, x + 0.05, low + 0.045, person.bag_colour)
    pen.box(x - 0.05, low - 0.05, x + 0.05, low - 0.025, scaled(person.bag_colour, 0.75))
