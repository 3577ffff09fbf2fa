"""A table for spreadsheets."""

from __future__ import annotations

import csv
import io

from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.exports.rows import DIGITS, class_name, rows

CSV_COLUMNS = ("class", "score", "x1", "y1", "x2", "y2", "width", "height", "truncated")


def to_csv(detections: Detections) -> str:
    """One line per detection under a header, see ``CSV_COLUMNS``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for (box, score, index), truncated in zip(rows(detections), detections.truncated):
        x1, y1, x2, y2 = box
        sides = (round(x2 - x1, DIGITS), round(y2 - y1, DIGITS))
        name = class_name(detections.class_names, index)
        writer.writerow([name, score, *box, *sides, int(truncated)])
    return text.getvalue()
