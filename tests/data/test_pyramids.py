"""Pyramids beside photos are no further photos; where they are found is told in test_builtin."""

from pathlib import Path

import pytest

from sparsenet.data.pyramids import without_pyramids

ROOT = Path("images")
PHOTOS = [ROOT / "a" / "1.jpg", ROOT / "a" / "2.tif"]


@pytest.mark.parametrize(
    "place", ["a/1.tif", "a/1.tiff", "a/pyramids/1.tif", "pyramids/a/1.tif", "../pyramids/a/1.tif"]
)
def test_pyramids_of_other_photos_are_left_out(place: str) -> None:
    pyramid = ROOT.parent / place[3:] if place.startswith("..") else ROOT / place
    assert without_pyramids([*PHOTOS, pyramid], ROOT) == PHOTOS


def test_other_tiffs_stay() -> None:
    images = [*PHOTOS, ROOT / "b" / "1.tif", ROOT / "pyramids" / "a" / "3.tif"]
    assert without_pyramids(images, ROOT) == images
    assert without_pyramids(PHOTOS[:1], ROOT) == PHOTOS[:1]
