"""``class_mapping.csv``: which class a number stands for, from preparation to prediction."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from sparsenet.errors import DatasetError, DatasetNotFoundError
from sparsenet.files import write_text

CLASS_MAPPING_FILE = "class_mapping.csv"
COLUMNS = ("class_id", "class_name")


def write_class_mapping(path: Path, class_names: Sequence[str]) -> None:
    """Writes one row per class, numbered from 0, as UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(enumerate(class_names))
    write_text(path, text.getvalue())


def read_class_mapping(path: Path) -> tuple[str, ...]:
    """The class names by number. A byte order mark, as spreadsheets write it, is accepted.

    Raises:
        DatasetNotFoundError: If there is no such file.
        DatasetError: If the columns are others, or the numbers are not 0, 1, 2 … each once.
    """
    if not path.is_file():
        raise DatasetNotFoundError(
            f"The class mapping must be a CSV file, {path} does not exist. Training writes "
            f"{CLASS_MAPPING_FILE} beside its weights."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise DatasetError(
                    f"{path} must have the columns {', '.join(COLUMNS)}, it has "
                    f"{', '.join(reader.fieldnames or ()) or 'none'}."
                )
            rows = [_parse(path, reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(
            f"{path} must be a CSV file in UTF-8, reading failed: {error}."
        ) from error
    ids = sorted(number for number, _ in rows)
    if ids != list(range(len(rows))) or not rows:
        raise DatasetError(
            f"{path} must number its {len(rows)} classes 0 to {len(rows) - 1}, each once; found "
            f"{ids[:5]} …. Use the file that training wrote."
        )
    return tuple(name for _, name in sorted(rows))


def _parse(path: Path, line: int, row: dict[str, str | None]) -> tuple[int, str]:
    number, name = (row[column] for column in COLUMNS)
    if name is None:
        raise DatasetError(f"{path}, line {line}: class_name is missing.")
    try:
        return int(number or ""), name
    except ValueError:
        raise DatasetError(
            f"{path}, line {line}: class_id must be an integer, got {number!r}."
        ) from None
