"""Colours of libvips images: from whatever a file stores to 8-bit sRGB."""

from __future__ import annotations

from typing import Any

from sparsenet.errors import ImageReadError

_INTEGER_SPACES = ("srgb", "rgb", "rgb16", "b-w", "grey16", "cmyk", "multiband")


def to_srgb(image: Any, path: str) -> Any:
    """Any colour space, depth and alpha -> 8-bit sRGB on white, lazily.

    Args:
        image: A pyvips image.
        path: Names the file in messages.

    Raises:
        ImageReadError: If the samples have no known range.
    """
    image = _name_space(image, path)
    if "icc-profile-data" in image.get_fields() and not _is_srgb(image):
        # A profile that contradicts the pixels makes libvips fall back to input_profile.
        fallback = "cmyk" if image.interpretation == "cmyk" else "srgb"
        image = image.icc_transform("srgb", embedded=True, input_profile=fallback, depth=8)
    image = image.colourspace("srgb")
    if image.bands > 4:
        image = image.extract_band(0, n=3)
    elif image.bands == 4:
        image = image.flatten(background=255)
    return image if image.format == "uchar" else image.cast("uchar")


def _name_space(image: Any, path: str) -> Any:
    """Gives RGB or grey samples without a colour space one; refuses numbers without a range."""
    if image.interpretation not in _INTEGER_SPACES:
        return image
    if image.format not in ("uchar", "ushort"):
        raise ImageReadError(
            f"{path}: samples must be 8 or 16 bits without sign, got {image.format} in colour "
            f"space {image.interpretation}, whose black and white are unknown. Convert the file to "
            "8 bits first."
        )
    if image.interpretation not in ("multiband", "rgb"):
        return image
    names = ("b-w", "grey16") if image.bands < 3 else ("srgb", "rgb16")
    return image.copy(interpretation=names[image.format == "ushort"])


def _is_srgb(image: Any) -> bool:
    """Whether RGB pixels carry a profile that is sRGB by its name; then nothing needs transforming.

    The transform costs more than decoding a JPEG, and most photos carry sRGB.
    """
    if image.interpretation not in ("srgb", "rgb16"):
        return False
    profile = bytes(image.get("icc-profile-data"))
    return b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile
