"""What a long run tells about itself: events for a progress bar, a log file, or any callable."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparsenet.errors import OutputError


@dataclass(frozen=True)
class ProgressEvent:
    """One step of a run on one image.

    Args:
        kind: "start"; "selected" (more tiles are known to run); "tiles" (some are done); "end".
        image: Path of the image.
        num_done: Tiles done so far, those taken from an earlier run included.
        num_tiles: Tiles known to run so far; coarse to fine learns of more.
        num_resumed: Of those done, tiles taken from an earlier run.
        megapixels: Through the network so far, in this run.
        seconds: Since the start.
        details: More, by kind: counts of the selection, timings.
    """

    kind: str
    image: str
    num_done: int = 0
    num_tiles: int = 0
    num_resumed: int = 0
    megapixels: float = 0.0
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def tiles_per_second(self) -> float:
        """Tiles of this run per second, on average."""
        return (self.num_done - self.num_resumed) / max(self.seconds, 1e-9)

    @property
    def megapixels_per_second(self) -> float:
        """Megapixels through the network per second, on average."""
        return self.megapixels / max(self.seconds, 1e-9)


OnProgress = Callable[[ProgressEvent], None]


class ProgressTracker:
    """Counts what is done on one image and tells every listener.

    Args:
        image: Path of the image.
        listeners: Called with every event.
    """

    def __init__(self, image: str, listeners: Sequence[OnProgress]) -> None:
        self._image = image
        self._listeners = tuple(listeners)
        self._start = time.perf_counter()
        self._num_done = self._num_tiles = self._num_resumed = 0
        self._num_pixels = 0
        self._tell("start")

    def select(self, num_tiles: int, num_resumed: int, details: dict[str, Any]) -> None:
        """More tiles are known to run, some of which an earlier run has done."""
        self._num_tiles += num_tiles
        self._num_done += num_resumed
        self._num_resumed += num_resumed
        self._tell("selected", details)

    def add(self, num_tiles: int, num_pixels: int) -> None:
        """Tiles went through the network."""
        self._num_done += num_tiles
        self._num_pixels += num_pixels
        self._tell("tiles")

    def end(self, details: dict[str, Any]) -> None:
        """The image is done."""
        self._tell("end", details)

    def _tell(self, kind: str, details: dict[str, Any] | None = None) -> None:
        event = ProgressEvent(
            kind=kind,
            image=self._image,
            num_done=self._num_done,
            num_tiles=self._num_tiles,
            num_resumed=self._num_resumed,
            megapixels=self._num_pixels / 1e6,
            seconds=time.perf_counter() - self._start,
            details=details or {},
        )
        for listener in self._listeners:
            listener(event)


class ProgressBar:
    """Shows a bar with tiles per second, megapixels per second and the time that is left.

    The bar's ``close`` must be called where an error may have ended the run.
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def __call__(self, event: ProgressEvent) -> None:
        if self._bar is None:
            self._bar = tqdm(total=0, unit="tile", desc=os.path.basename(event.image))
        self._bar.total = event.num_tiles
        if event.kind == "selected":
            self._bar.initial = event.num_resumed  # not counted in the speed
        self._bar.set_postfix_str(f"{event.megapixels_per_second:.1f} MP/s", refresh=False)
        self._bar.update(event.num_done - self._bar.n)
        if event.kind == "end":
            self.close()

    def close(self) -> None:
        """Ends the bar; the next event begins a new one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class JsonLog:
    """Appends every event to a file of JSON lines, with the time of day in seconds since 1970.

    Args:
        path: The file; created, with its folder, where it does not exist.

    Raises:
        OutputError: If it cannot be written, at once or later.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._append("")

    def __call__(self, event: ProgressEvent) -> None:
        rates = {
            "tiles_per_second": round(event.tiles_per_second, 3),
            "megapixels_per_second": round(event.megapixels_per_second, 3),
        }
        line = {"time": round(time.time(), 3), **asdict(event), **rates}
        self._append(json.dumps(line, allow_nan=False) + "\n")

    def _append(self, text: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise OutputError(
                f"{self._path}: the log cannot be written ({error}). Make space, or choose another "
                "--log-json."
            ) from error
