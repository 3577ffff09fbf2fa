"""CVAT's own XML, "CVAT for images 1.1": boxes, or masks where there are some."""

from __future__ import annotations

import itertools
from typing import Any
from xml.etree import ElementTree

import numpy as np

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.rows import (
    ImageInfo,
    all_class_names,
    class_color,
    class_name,
    rows,
)
from sparsenet.gigapixel.masks import decode_mask, mask_windows


def to_cvat(detections: Detections, image: ImageInfo) -> str:
    """The file that CVAT's "Upload annotations" takes, for a task that holds the image.

    Scores come as an attribute ``score``; CVAT drops it where the task's labels have none.

    Args:
        detections: Of one image.
        image: Its file name must be the one in the task.
    """
    root = ElementTree.Element("annotations")
    _add(root, "version", "1.1")
    labels = _add(_add(_add(root, "meta"), "task"), "labels")
    for index, name in enumerate(all_class_names(detections)):
        _add_label(labels, name, index)
    height, width = detections.image_size
    frame = _add(root, "image", id=0, name=image.name, width=width, height=height)
    for number, (box, score, index) in enumerate(rows(detections)):
        shape = _add_shape(frame, detections, number, box)
        shape.attrib["label"] = class_name(detections.class_names, index)
        _add(shape, "attribute", str(score), name="score")
    ElementTree.indent(root, " ")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_shape(
    frame: ElementTree.Element, detections: Detections, number: int, box: list[float]
) -> ElementTree.Element:
    shared: dict[str, Any] = {"label": "", "source": "auto", "occluded": 0, "z_order": 0}
    if detections.masks is None:
        x1, y1, x2, y2 = box
        return _add(frame, "box", **shared, xtl=x1, ytl=y1, xbr=x2, ybr=y2)
    x1, y1, x2, y2 = mask_windows(detections.boxes_xyxy[number : number + 1])[0].tolist()
    place: dict[str, Any] = {"left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
    counts = _row_runs(decode_mask(detections.masks[number]))
    return _add(frame, "mask", **shared, rle=", ".join(map(str, counts)), **place)


def _row_runs(pixels: np.ndarray) -> list[int]:
    """Lengths of the runs along the rows, outside and inside the mask in turn."""
    runs = [(value, len(list(group))) for value, group in itertools.groupby(pixels.ravel())]
    starts_inside = bool(runs[0][0])
    return [0] * starts_inside + [length for _, length in runs]


def _add_label(labels: ElementTree.Element, name: str, index: int) -> None:
    label = _add(labels, "label")
    _add(label, "name", name)
    _add(label, "color", "#{:02x}{:02x}{:02x}".format(*class_color(index)))
    attribute = _add(_add(label, "attributes"), "attribute")
    for key, text in (
        ("name", "score"),
        ("mutable", "False"),
        ("input_type", "text"),
        ("default_value", ""),
        ("values", ""),
    ):
        _add(attribute, key, text)


def _add(
    parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: Any
) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, {k: str(v) for k, v in attributes.items()})
    element.text = text
    return element
