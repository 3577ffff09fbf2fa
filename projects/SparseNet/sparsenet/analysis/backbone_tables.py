"""The backbones' measurements as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsenet.analysis.tables import giga, markdown_table, milliseconds, percent

Records = Sequence[dict[str, Any]]


def time_table(records: Records) -> str:
    """A row per backbone: milliseconds at keep 1, and time relative to it at the others.

    Keep ratios are taken from the records; the first is the one that the others refer to.
    """
    rows = []
    for name, mine in _by_backbone(records).items():
        first = mine[0]
        row = {
            "backbone": name,
            "GFLOPs": giga(first["gflops"] * 1e9),
            "ms": milliseconds(first["median_s"]),
        }
        for record in mine[1:]:
            row[f"{record['keep']:g}"] = f"{record['median_s'] / first['median_s']:.2f}"
        row = _complete(row, records)
        row["largest spread"] = percent(max(record["spread"] for record in mine))
        rows.append(row)
    return markdown_table(rows)


def share_table(records: Records, key: str) -> str:
    """A row per backbone, a column per keep ratio: ``outside`` or ``peak_share`` in percent."""
    rows = []
    for name, mine in _by_backbone(records).items():
        if all(record[key] is not None for record in mine):
            cells = {_column(record): percent(record[key]) for record in mine}
            rows.append({"backbone": name, **cells})
    return markdown_table(rows)


def training_table(records: Records) -> str:
    """A row per backbone: step and peak memory, packed and masked."""
    rows = []
    for name, mine in _by_backbone(records).items():
        forms = {record["form"]: record for record in mine}
        packed, masked = forms["packed"], forms["masked"]
        rows.append(
            {
                "training step": name,
                "keep": f"{packed['keep']:g}",
                "packed, ms": milliseconds(packed["median_s"]),
                "masked, ms": milliseconds(masked["median_s"]),
                "time": f"{packed['median_s'] / masked['median_s']:.2f}",
                "packed, MB": f"{packed['peak_bytes'] / 1e6:.0f}",
                "masked, MB": f"{masked['peak_bytes'] / 1e6:.0f}",
                "memory": f"{packed['peak_bytes'] / masked['peak_bytes']:.2f}",
            }
        )
    return markdown_table(rows)


def _by_backbone(records: Records) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["backbone"], []).append(record)
    return groups


def _column(record: dict[str, Any]) -> str:
    return "dense" if record["keep"] is None else f"{record['keep']:g}"


def _complete(row: dict[str, str], records: Records) -> dict[str, str]:
    """Adds empty cells for the keep ratios that a dense peer lacks."""
    keeps = dict.fromkeys(f"{r['keep']:g}" for r in records if r["keep"] is not None)
    first = next(iter(keeps), None)
    return row | {keep: row.get(keep, "") for keep in keeps if keep != first}
