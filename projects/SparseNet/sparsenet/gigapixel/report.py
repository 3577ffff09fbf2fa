"""Everything that is written about one image: results, pictures and the viewer, in one pass."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsenet.errors import ConfigError
from sparsenet.files import make_folder, write_json
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports import ImageInfo, check_formats, class_name, write_exports
from sparsenet.gigapixel.pictures import (
    crop_collector,
    crop_groups,
    overview_downsample,
    paint_crops,
    paint_overview,
    write_picture,
)
from sparsenet.gigapixel.result import GigapixelResult
from sparsenet.gigapixel.sweep import BandConsumer, OverviewCollector, sweep
from sparsenet.gigapixel.truth import Truth
from sparsenet.gigapixel.viewer import viewer_tiles, write_page
from sparsenet.tiling.level_reader import ImageReader

# Average precision needs the low scores, too; every other format shows what is reported.
_FORMATS_OF_ALL = ("coco", "panda")


@dataclass(frozen=True)
class ReportOptions:
    """What a report holds.

    Args:
        threshold: Detections with a lower score are left out of pictures and exports, and hidden
            when the viewer opens. COCO and PANDA results keep them: average precision needs them.
        formats: Names of ``sparsenet.gigapixel.exports.FORMATS``.
        has_viewer: Whether to write the viewer, which takes about the space of the image.
        image_id: For COCO and PANDA results; None takes the image's file name.
        category_ids: For COCO and PANDA results, by class; None counts from 1.
        progress: Show a bar.

    Raises:
        ConfigError: If the threshold is not in [0, 1] or a format is unknown.
    """

    threshold: float = 0.4
    formats: Sequence[str] = ("coco", "geojson", "csv")
    has_viewer: bool = True
    image_id: int | str | None = None
    category_ids: Sequence[int] | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ConfigError(
                f"The confidence threshold must be in [0, 1], got {self.threshold}. "
                "Use for example 0.4."
            )
        check_formats(self.formats)


def save_report(
    result: GigapixelResult,
    reader: ImageReader,
    folder: str | os.PathLike[str],
    options: ReportOptions | None = None,
    *,
    truth: Truth | None = None,
) -> dict[str, Any]:
    """Writes the exports, ``overview.jpg``, ``crops.jpg``, ``viewer/`` and ``summary.json``.

    The image is decoded once for all pictures and for the viewer.

    Args:
        result: What was found.
        reader: The image.
        folder: Created where it does not exist.
        options: None takes the defaults.
        truth: Drawn in the overview and compared in the viewer.

    Returns:
        The content of ``summary.json``: sizes, counts, and seconds with those of writing.

    Raises:
        OutputError: If something cannot be written.
        ImageReadError: If the image cannot be read again.
    """
    options = options or ReportOptions()
    start = time.perf_counter()
    path = make_folder(folder)
    _write_results(result.detections, reader, path, options)
    _write_pictures(result, reader, path, options, truth)
    summary = _summarize(result, reader, options)
    summary["seconds"]["write"] = round(time.perf_counter() - start, 3)
    write_json(path / "summary.json", summary)
    return summary


def _write_results(
    detections: Detections, reader: ImageReader, folder: Path, options: ReportOptions
) -> None:
    image = ImageInfo(reader.path, options.image_id, options.category_ids, reader.georeference)
    of_all = [name for name in options.formats if name in _FORMATS_OF_ALL]
    write_exports(detections, image, folder, of_all)
    of_reported = [name for name in options.formats if name not in _FORMATS_OF_ALL]
    write_exports(detections.above(options.threshold), image, folder, of_reported)


def _write_pictures(
    result: GigapixelResult,
    reader: ImageReader,
    folder: Path,
    options: ReportOptions,
    truth: Truth | None,
) -> None:
    detections = result.detections
    reported = detections.above(options.threshold)
    downsample = overview_downsample(reader.size)
    overview = OverviewCollector(reader.size, downsample)
    groups = crop_groups(reported, options.threshold)
    crops = crop_collector(reported, groups)
    consumers: list[BandConsumer] = [overview, crops]
    if options.has_viewer:
        with viewer_tiles(folder / "viewer", reader.size) as tiles:
            sweep(reader, [*consumers, tiles], progress=options.progress)
        write_page(
            detections,
            folder / "viewer",
            title=Path(reader.path).name,
            truth=truth,
            skipped=() if result.selection is None else result.selection.skipped(),
            threshold=options.threshold,
        )
    else:
        sweep(reader, consumers, progress=options.progress)
    picture = paint_overview(overview.pixels, downsample, reported, truth)
    write_picture(folder / "overview.jpg", picture)
    write_picture(folder / "crops.jpg", paint_crops(crops, reported, groups))


def _summarize(
    result: GigapixelResult, reader: ImageReader, options: ReportOptions
) -> dict[str, Any]:
    reported = result.detections.above(options.threshold)
    names = reported.class_names
    counts = Counter(class_name(names, index) for index in reported.classes.tolist())
    return {
        "image": reader.path,
        "height": reader.size[0],
        "width": reader.size[1],
        "threshold": options.threshold,
        "num_detections": len(reported),
        "counts": dict(counts),
        "num_tiles": result.num_tiles,
        "num_tile_pixels": result.num_tile_pixels,
        "num_saturated_tiles": result.num_saturated_tiles,
        "selection": None if result.selection is None else result.selection.to_dict(),
        "seconds": {name: round(value, 3) for name, value in result.timings.items()},
    }
