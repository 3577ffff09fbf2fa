"""Curves of training runs from their ``metrics.json``, or ``train_log.txt`` of a classifier."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparsenet.errors import DatasetError, DatasetNotFoundError
from sparsenet.gigapixel.pictures import write_picture

# Stages of a cascade repeat their losses with a number: the last stage's, without one, is enough.
_OF_AN_EARLIER_STAGE = re.compile(r"^loss_.*_\d+$")
DEFAULT_KEYS = ("total_loss", "loss_*", "*/AP", "*/AP50", "*/AP75", "*/AP50-*", "lr")
_PANEL = (4.2, 2.9)  # width and height of a panel, inches
_COLUMNS = 3

Run = list[dict[str, Any]]


def read_metrics(path: str | Path) -> Run:
    """The lines of a ``metrics.json`` (or of the one in a run's folder), by rising iteration.

    Where a resumed run has repeated an iteration, the later line counts. In the ``train_log.txt``
    of a classifier, epochs are the iterations.

    Raises:
        DatasetNotFoundError: If there is no such file.
        DatasetError: If a line is no JSON object with an iteration, or there is none.
    """
    path = Path(path)
    if path.is_dir():
        path /= "train_log.txt" if (path / "train_log.txt").is_file() else "metrics.json"
    if not path.is_file():
        raise DatasetNotFoundError(
            f"The curves need a metrics.json or the folder of a run, got {path}, which does not "
            "exist. Train first, or name OUTPUT_DIR."
        )
    lines: dict[int, dict[str, Any]] = {}
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            iteration = int(line["iteration" if "iteration" in line else "epoch"])
            line["iteration"] = iteration
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{path}:{number} must be a JSON object with an iteration, got {text[:80]!r}. "
                "Remove the line; a run that was killed may have cut it."
            ) from error
        lines[iteration] = lines.get(iteration, {}) | line
    if not lines:
        raise DatasetError(f"{path} must hold at least one line, it is empty. Train first.")
    return [lines[iteration] for iteration in sorted(lines)]


def choose_keys(runs: Mapping[str, Run], patterns: Sequence[str] = DEFAULT_KEYS) -> list[str]:
    """The numeric keys of the runs that fit a pattern (``*`` and ``?``), in the patterns' order.

    Raises:
        DatasetError: If no key fits.
    """
    present = dict.fromkeys(
        key
        for run in runs.values()
        for line in run
        for key, value in line.items()
        if isinstance(value, int | float)
    )
    chosen = dict.fromkeys(
        key
        for pattern in patterns
        for key in present
        if fnmatchcase(key, pattern) and (pattern == key or not _OF_AN_EARLIER_STAGE.match(key))
    )
    if not chosen:
        raise DatasetError(
            f"At least one key must fit {', '.join(patterns)}, none does. There are "
            f"{', '.join(sorted(present))}. Choose with --keys."
        )
    return list(chosen)


def plot_curves(
    runs: Mapping[str, Run], keys: Sequence[str], path: str | Path, *, window: int = 1
) -> None:
    """Writes one panel per key with a line per run.

    Args:
        runs: by the name in the legend.
        path: PNG or JPEG file.
        window: neighbouring points whose median is drawn; the raw line stays visible behind it.

    Raises:
        OutputError: If the file cannot be written.
    """
    is_classifier = all("epoch" in line for run in runs.values() for line in run)
    columns = min(_COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(columns * _PANEL[0], rows * _PANEL[1] + 0.5), dpi=110)
    canvas = FigureCanvasAgg(figure)
    for place, key in enumerate(keys, start=1):
        axes = figure.add_subplot(rows, columns, place)
        for number, run in enumerate(runs.values()):
            _draw(axes, run, key, f"C{number}", window)
        axes.set_title(key, fontsize=10)
        axes.set_xlabel("epoch" if is_classifier else "iteration", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    handles = [axes.plot([], [], color=f"C{number}")[0] for number in range(len(runs))]
    figure.legend(handles, list(runs), loc="lower center", ncol=4, fontsize=9)
    figure.tight_layout(rect=(0, 0.35 / (rows * _PANEL[1] + 0.5) * math.ceil(len(runs) / 4), 1, 1))
    canvas.draw()
    write_picture(path, np.asarray(canvas.buffer_rgba())[:, :, :3])


def running_median(values: np.ndarray, window: int) -> np.ndarray:
    """The median of up to ``window`` values around each, fewer at the ends: (N,) to (N,)."""
    before, after = (window - 1) // 2, window // 2
    return np.array(
        [np.median(values[max(0, i - before) : i + after + 1]) for i in range(len(values))]
    )


def _draw(axes: Any, run: Run, key: str, color: str, window: int) -> None:
    points = [(line["iteration"], line[key]) for line in run if key in line]
    if not points:
        return
    steps, values = np.array(points, dtype=np.float64).T
    marker = "o" if len(points) < 12 else ""
    if window > 1 and len(points) > window:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        values, marker = running_median(values, window), ""
    axes.plot(steps, values, color=color, linewidth=1.4, marker=marker, markersize=3)
