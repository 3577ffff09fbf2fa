"""Detections in the formats of other programs. Coordinates are full-image pixels.

``FORMATS`` lists them by name; :func:`write_exports` writes the files of several at once.
"""

from sparsenet.gigapixel.exports.coco import to_coco, to_panda
from sparsenet.gigapixel.exports.csv_table import CSV_COLUMNS, to_csv
from sparsenet.gigapixel.exports.cvat import to_cvat
from sparsenet.gigapixel.exports.fiftyone import to_fiftyone
from sparsenet.gigapixel.exports.formats import FORMATS, check_formats, write_exports
from sparsenet.gigapixel.exports.geojson import to_geojson
from sparsenet.gigapixel.exports.labelme import to_labelme
from sparsenet.gigapixel.exports.rows import ImageInfo, class_color, class_name
from sparsenet.gigapixel.exports.yolo import to_yolo

__all__ = [
    "CSV_COLUMNS",
    "FORMATS",
    "ImageInfo",
    "check_formats",
    "class_color",
    "class_name",
    "to_coco",
    "to_csv",
    "to_cvat",
    "to_fiftyone",
    "to_geojson",
    "to_labelme",
    "to_panda",
    "to_yolo",
    "write_exports",
]
