"""Measurements as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; the first row names the columns, None is an empty cell."""
    columns = list(rows[0]) if rows else []
    cells = [[row.get(name) for name in columns] for row in rows]
    # The first column names the row; all others hold numbers, which some cells explain.
    align = ["left", *["right"] * (len(columns) - 1)] if rows else None
    return tabulate(
        cells, columns, tablefmt="pipe", colalign=align, disable_numparse=True, missingval=""
    )


def giga(count: float) -> str:
    """A count in 10⁹, with three digits that mean something."""
    return f"{count / 1e9:.3g}" if count < 1e11 else f"{count / 1e9:.0f}"


def milliseconds(seconds: float) -> str:
    """Seconds in ms, with three digits that mean something."""
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def percent(share: float) -> str:
    """A share as a whole percentage."""
    return f"{100 * share:.0f} %"
