"""Area averaging and sub-pixel resampling of pixel blocks.

All readers and the tile stream shrink by these functions, so that a tile looks the same whether
it was streamed, read from an array, or read from a pyramid. Beyond the image border the outermost
pixels repeat.
"""

from __future__ import annotations

import cv2
import numpy as np


def shrink_area(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Averages blocks of ``factor × factor`` pixels.

    Args:
        pixels: (h, w, 3) uint8. A side that is no multiple of ``factor`` repeats its last pixel.
        factor: Pixels per output pixel and side, at least 1.

    Returns:
        (ceil(h / factor), ceil(w / factor), 3) uint8, within 1 of the exact average; rounded to the
        nearest value where the factor is odd or 2.
    """
    if factor == 1:
        return pixels
    pad_y, pad_x = -pixels.shape[0] % factor, -pixels.shape[1] % factor
    if pad_y or pad_x:
        pixels = cv2.copyMakeBorder(pixels, 0, pad_y, 0, pad_x, cv2.BORDER_REPLICATE)
    if factor % 2 == 0:
        # cv2 has vector code for 2 × 2 only: halving first makes factor 4 twice as fast.
        pixels, factor = _average(pixels, 2), factor // 2
    return _average(pixels, factor)


def _average(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Averages whole blocks."""
    if factor == 1:
        return pixels
    size = (pixels.shape[1] // factor, pixels.shape[0] // factor)
    return cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)


def resample(
    pixels: np.ndarray, offset: tuple[float, float], scale: float, size: tuple[int, int]
) -> np.ndarray:
    """Samples a regular grid that lies anywhere on the pixels.

    Output pixel (i, j) shows the square of ``scale`` input pixels per side whose upper left corner
    is ``offset + (i, j) * scale``. Where the scale shrinks, twice as many points are interpolated
    bilinearly and then averaged in pairs: without this, fine texture would alias.

    Args:
        pixels: (h, w, 3) uint8.
        offset: ``(y, x)`` in input pixels.
        scale: Input pixels per output pixel; at most 2 for full quality.
        size: ``(h, w)`` of the output.

    Returns:
        (*size, 3) uint8.
    """
    finer = 2 if scale > 1 else 1
    step = scale / finer
    # Centre of output pixel i in input pixels, centres of input pixels being integers.
    shift_y, shift_x = (start + step / 2 - 0.5 for start in offset)
    matrix = np.array([[step, 0, shift_x], [0, step, shift_y]], dtype=np.float64)
    sampled = cv2.warpAffine(
        pixels,
        matrix,
        (size[1] * finer, size[0] * finer),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return shrink_area(sampled, finer)
