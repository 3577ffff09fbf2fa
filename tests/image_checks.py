"""Pictures that are known exactly, and what every reader owes them."""

import numpy as np

from sparsenet.tiling import ImageReader, Window, open_image


def smooth(height: int, width: int) -> np.ndarray:
    """Colours that vary slowly and differently along both axes: survives JPEG, shows a flip."""
    y, x = np.mgrid[:height, :width]
    channels = (x * 200 / width + 20, y * 200 / height + 20, (x + y) * 100 / (height + width) + 50)
    return np.stack(channels, axis=-1).astype(np.uint8)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def all_rows(reader: ImageReader, band_height: int = 32) -> np.ndarray:
    return np.concatenate([band.copy() for band in reader.bands(band_height)])


def whole(reader: ImageReader) -> np.ndarray:
    return reader.read(Window(0, 0, *reader.size[::-1]))


def assert_reads(path, expected: np.ndarray, tolerance: int) -> None:
    """Both ways of access give the expected pixels."""
    reader = open_image(path)
    assert isinstance(reader, ImageReader)
    assert reader.path == str(path)
    assert reader.size == expected.shape[:2]
    for pixels in (all_rows(reader), whole(reader)):
        assert pixels.dtype == np.uint8
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).max() <= tolerance
