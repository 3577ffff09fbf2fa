"""The formats by name, and where the files of each go.

An image that lies on a map gets its GeoJSON twice: in pixels for QuPath, on the map for GIS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sparsenet.errors import ConfigError
from sparsenet.files import make_folder, write_json, write_text
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.coco import to_coco, to_panda
from sparsenet.gigapixel.exports.csv_table import to_csv
from sparsenet.gigapixel.exports.cvat import to_cvat
from sparsenet.gigapixel.exports.fiftyone import fiftyone_data, to_fiftyone
from sparsenet.gigapixel.exports.geojson import to_geojson
from sparsenet.gigapixel.exports.labelme import to_labelme
from sparsenet.gigapixel.exports.rows import ImageInfo
from sparsenet.gigapixel.exports.yolo import to_yolo, yolo_names

Writer = Callable[[Detections, ImageInfo, Path], None]


def _write_coco(detections: Detections, image: ImageInfo, folder: Path) -> None:
    results = to_coco(detections, _image_id(image), image.category_ids)
    write_json(folder / "detections.json", results)


def _write_panda(detections: Detections, image: ImageInfo, folder: Path) -> None:
    results = to_panda(detections, _image_id(image), image.category_ids)
    write_json(folder / "detections.panda.json", results)


def _write_geojson(detections: Detections, image: ImageInfo, folder: Path) -> None:
    write_json(folder / "detections.geojson", to_geojson(detections))
    if image.georeference is not None:
        on_map = to_geojson(detections, georeference=image.georeference)
        write_json(folder / "detections.map.geojson", on_map)


def _write_csv(detections: Detections, image: ImageInfo, folder: Path) -> None:
    write_text(folder / "detections.csv", to_csv(detections))


def _write_cvat(detections: Detections, image: ImageInfo, folder: Path) -> None:
    write_text(folder / "detections.cvat.xml", to_cvat(detections, image))


def _write_labelme(detections: Detections, image: ImageInfo, folder: Path) -> None:
    target = make_folder(folder / "labelme")
    write_json(target / f"{image.stem}.json", to_labelme(detections, image, target))


def _write_yolo(detections: Detections, image: ImageInfo, folder: Path) -> None:
    target = make_folder(folder / "yolo")
    write_text(make_folder(target / "labels") / f"{image.stem}.txt", to_yolo(detections))
    write_text(target / "data.yaml", yolo_names(detections))


def _write_fiftyone(detections: Detections, image: ImageInfo, folder: Path) -> None:
    target = make_folder(folder / "fiftyone")
    write_json(target / "labels.json", to_fiftyone(detections, image))
    write_json(target / "data.json", fiftyone_data(image))


FORMATS: Mapping[str, Writer] = {
    "coco": _write_coco,
    "panda": _write_panda,
    "geojson": _write_geojson,
    "csv": _write_csv,
    "cvat": _write_cvat,
    "labelme": _write_labelme,
    "yolo": _write_yolo,
    "fiftyone": _write_fiftyone,
}


def write_exports(
    detections: Detections,
    image: ImageInfo,
    folder: str | os.PathLike[str],
    formats: Sequence[str] = ("coco", "geojson", "csv"),
) -> None:
    """Writes the files of several formats into one folder.

    Args:
        detections: What is to be written; filter by score before.
        image: What the formats say of the image.
        folder: Created where it does not exist.
        formats: Names of ``FORMATS``.

    Raises:
        ConfigError: If there is no such format.
        OutputError: If something cannot be written.
    """
    check_formats(formats)
    path = make_folder(folder)
    for name in formats:
        FORMATS[name](detections, image, path)


def check_formats(names: Sequence[str]) -> None:
    """Refuses names that are not in ``FORMATS``.

    Raises:
        ConfigError: If there is one.
    """
    unknown = [name for name in names if name not in FORMATS]
    if unknown:
        raise ConfigError(f"Formats must be some of {', '.join(FORMATS)}; got {unknown}.")


def _image_id(image: ImageInfo) -> int | str:
    return image.name if image.image_id is None else image.image_id
