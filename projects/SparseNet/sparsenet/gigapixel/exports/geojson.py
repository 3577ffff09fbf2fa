"""GeoJSON for QuPath, in pixels, and for GIS programs, in map coordinates."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.rows import (
    Ring,
    box_ring,
    class_color,
    class_name,
    outlines,
    rows,
)

if TYPE_CHECKING:
    from sparsenet.tiling import Georeference

# Of map units: a millimetre in degrees.
_MAP_DIGITS = 8


def to_geojson(
    detections: Detections,
    *,
    georeference: Georeference | None = None,
    is_lonlat: bool = False,
    object_type: str = "annotation",
) -> dict[str, Any]:
    """A GeoJSON FeatureCollection that QuPath (pixels) or a GIS program (map) reads as it is.

    Args:
        detections: Of one image.
        georeference: Where the image lies on a map. None leaves full-image pixels. Otherwise the
            coordinates are in the map's reference system, which a ``crs`` member names: GDAL, QGIS
            and geopandas read it, though RFC 7946 dropped it.
        is_lonlat: Longitude and latitude instead, as RFC 7946 wants. Needs a georeference.
        object_type: QuPath's kind of object: ``annotation`` (editable) or ``detection`` (light).

    Raises:
        ConfigError: If the object type is another, or the georeference is missing.
        MissingDependencyError: If longitudes are wanted and rasterio is not installed.
    """
    if object_type not in ("annotation", "detection"):
        raise ConfigError(f"object_type must be 'annotation' or 'detection', got {object_type!r}.")
    if is_lonlat and georeference is None:
        raise ConfigError(
            "is_lonlat needs the georeference of the image, got None. Pass reader.georeference of "
            "a GeoTIFF, or leave the coordinates in pixels."
        )
    outlines_of_all = [
        outlines(detections, number) or [box_ring(box)]
        for number, (box, _, _) in enumerate(rows(detections))
    ]
    if georeference is not None:
        outlines_of_all = _on_map(outlines_of_all, georeference, is_lonlat)
    features = [
        _feature(rings, row, number, detections.class_names, object_type)
        for number, (rings, row) in enumerate(zip(outlines_of_all, rows(detections)))
    ]
    collection: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if georeference is not None and not is_lonlat:
        name = georeference.crs.replace("EPSG:", "urn:ogc:def:crs:EPSG::")
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    return collection


def _feature(
    rings: list[Ring],
    row: tuple[list[float], float, int],
    number: int,
    class_names: tuple[str, ...],
    object_type: str,
) -> dict[str, Any]:
    _, score, index = row
    closed = [[*ring, ring[0]] for ring in rings]
    # QuPath wants a UUID; made from the content, it is the same in every run.
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"sparsenet {number} {index} {score} {closed}")
    geometry: dict[str, Any] = {"type": "Polygon", "coordinates": closed}
    if len(closed) > 1:
        geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in closed]}
    return {
        "type": "Feature",
        "id": str(identity),
        "geometry": geometry,
        "properties": {
            "objectType": object_type,
            "classification": {
                "name": class_name(class_names, index),
                "color": list(class_color(index)),
            },
            "measurements": {"score": score},
        },
    }


def _on_map(
    outlines_of_all: list[list[Ring]], georeference: Georeference, is_lonlat: bool
) -> list[list[Ring]]:
    """The same rings in map coordinates, counter-clockwise; all points are converted at once."""
    points = [np.array(ring, dtype=np.float64) for rings in outlines_of_all for ring in rings]
    if not points:
        return outlines_of_all
    convert = georeference.pixel_to_lonlat if is_lonlat else georeference.pixel_to_map
    on_map = convert(np.concatenate(points)).round(_MAP_DIGITS)
    parts = iter(np.split(on_map, np.cumsum([len(ring) for ring in points])[:-1]))
    return [[_counter_clockwise(next(parts)) for _ in rings] for rings in outlines_of_all]


def _counter_clockwise(ring: np.ndarray) -> Ring:
    following = np.roll(ring, -1, axis=0)
    doubled_area = (ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]).sum()
    return (ring if doubled_area >= 0 else ring[::-1]).tolist()
