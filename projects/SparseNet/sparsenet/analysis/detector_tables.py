"""The detectors' and heads' measurements as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsenet.analysis.detector_speed import STEPS
from sparsenet.analysis.head_speed import OURS, PEER
from sparsenet.analysis.tables import giga, markdown_table, milliseconds, percent


def detector_table(records: Sequence[dict[str, Any]]) -> str:
    """A row per detector: milliseconds and GFLOPs by part, spread, peak memory."""
    rows = []
    for record in records:
        gflops, seconds = record["gflops"], record["parts_s"]
        row = {"detector": record["model"], "ms": milliseconds(record["median_s"])}
        for step in STEPS:
            row[step] = milliseconds(seconds[step])
            if step in gflops:
                row[step] += f" ({giga(gflops[step] * 1e9)} G)"
        row["GFLOPs"] = giga(gflops["total"] * 1e9)
        row["spread"] = percent(record["spread"])
        row["peak MB"] = f"{record['peak_bytes'] / 1e6:.0f}"
        rows.append(row)
    return markdown_table(rows)


def training_table(records: Sequence[dict[str, Any]]) -> str:
    """A row per detector: milliseconds of a training step and its peak memory."""
    return markdown_table(
        [
            {
                "training step": record["model"],
                "ms": milliseconds(record["median_s"]),
                "spread": percent(record["spread"]),
                "peak MB": f"{record['peak_bytes'] / 1e6:.0f}",
            }
            for record in records
        ]
    )


def head_table(records: Sequence[dict[str, Any]]) -> str:
    """A row per mode: our head, the peer's, and how many times faster ours is."""
    by_key = {(record["head"], record["mode"]): record for record in records}
    rows = []
    for mode in dict.fromkeys(record["mode"] for record in records):
        ours, peer = by_key[OURS, mode], by_key[PEER, mode]
        rows.append(
            {
                "head": mode,
                "ours, ms": milliseconds(ours["median_s"]),
                "peer, ms": milliseconds(peer["median_s"]),
                "faster": f"{peer['median_s'] / ours['median_s']:.2f} x",
                "ours, MB": f"{ours['peak_bytes'] / 1e6:.0f}",
                "peer, MB": f"{peer['peak_bytes'] / 1e6:.0f}",
                "largest difference": f"{ours['difference']:.1e}",
            }
        )
    return markdown_table(rows)
