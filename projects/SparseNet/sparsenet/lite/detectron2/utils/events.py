"""Stands in for detectron2.utils.events: has EventStorage and the JSON, TensorBoard and console
writers; lacks nothing."""

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from functools import cached_property

import torch
from detectron2.utils.file_io import PathManager
from fvcore.common.history_buffer import HistoryBuffer

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_CURRENT_STORAGE_STACK: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """Returns the storage of the innermost ``with EventStorage(...)`` block."""
    assert _CURRENT_STORAGE_STACK, (
        "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    )
    return _CURRENT_STORAGE_STACK[-1]


def has_event_storage() -> bool:
    """Tells whether a ``with EventStorage(...)`` block is open."""
    return len(_CURRENT_STORAGE_STACK) > 0


class EventStorage:
    """Scalars, images and histograms of a training run, by name and iteration."""

    def __init__(self, start_iter=0):
        self._history = defaultdict(HistoryBuffer)
        self._smoothing_hints = {}
        self._latest_scalars = {}
        self._iter = start_iter
        self._current_prefix = ""
        self._vis_data = []
        self._histograms = []

    def put_image(self, img_name, img_tensor):
        """Keeps a (3, H, W) RGB image, uint8 or in [0, 1], for the TensorBoard writer."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_scalar(self, name, value, smoothing_hint=True, cur_iter=None):
        """Adds a number.

        Args:
            smoothing_hint: whether writers should show a median; one name keeps one hint.
            cur_iter: iteration of the number; None: the current one.
        """
        name = self._current_prefix + name
        cur_iter = self._iter if cur_iter is None else cur_iter
        value = float(value)
        self._history[name].update(value, cur_iter)
        self._latest_scalars[name] = (value, cur_iter)
        hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert hint == smoothing_hint, f"Scalar {name} was put with a different smoothing_hint!"

    def put_scalars(self, *, smoothing_hint=True, cur_iter=None, **kwargs):
        """Adds one number per keyword."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_histogram(self, hist_name, hist_tensor, bins=1000):
        """Keeps the histogram of a tensor for the TensorBoard writer."""
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float32)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": len(hist_tensor),
                "sum": float(hist_tensor.sum()),
                "sum_squares": float((hist_tensor**2).sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(hist_tensor, bins=bins).tolist(),
                "global_step": self._iter,
            }
        )

    def history(self, name):
        """Returns the HistoryBuffer of a scalar; KeyError where nothing was put."""
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self):
        """Returns {name: HistoryBuffer}."""
        return self._history

    def latest(self):
        """Returns {name: (last value, its iteration)}."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size=20):
        """Returns ``latest``, with hinted scalars replaced by their median over the window."""
        return {
            name: (self._smoothed(name, value, window_size), iteration)
            for name, (value, iteration) in self._latest_scalars.items()
        }

    def _smoothed(self, name, value, window_size):
        if not self._smoothing_hints[name]:
            return value
        return self._history[name].median(self.count_samples(name, window_size))

    def count_samples(self, name, window_size=20):
        """Returns how many values a scalar got in its last ``window_size`` iterations."""
        values = self._history[name].values()
        oldest = values[-1][1] - window_size
        count = 0
        for _, iteration in reversed(values):
            if iteration <= oldest:
                break
            count += 1
        return count

    def smoothing_hints(self):
        """Returns {name: bool}."""
        return self._smoothing_hints

    def step(self):
        """Moves to the next iteration."""
        self._iter += 1

    @property
    def iter(self):
        """Current iteration, the trainer's."""
        return self._iter

    @iter.setter
    def iter(self, val):
        self._iter = int(val)

    @property
    def iteration(self):
        """Old name of ``iter``."""
        return self._iter

    def __enter__(self):
        _CURRENT_STORAGE_STACK.append(self)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        assert _CURRENT_STORAGE_STACK[-1] == self, "EventStorage blocks must close in order."
        _CURRENT_STORAGE_STACK.pop()

    @contextmanager
    def name_scope(self, name):
        """Within the block, every scalar's name starts with ``name/``."""
        outer, self._current_prefix = self._current_prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._current_prefix = outer

    def clear_images(self):
        """Drops the images; the writer that showed them calls it."""
        self._vis_data = []

    def clear_histograms(self):
        """Drops the histograms; the writer that showed them calls it."""
        self._histograms = []


class EventWriter:
    """Reads from the current storage and writes somewhere."""

    def write(self):
        """Writes what is new."""
        raise NotImplementedError

    def close(self):
        """Releases files."""


class JSONWriter(EventWriter):
    """Appends one JSON object per iteration, keys sorted, with its "iteration"."""

    def __init__(self, json_file, window_size=20):
        self._file_handle = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self):
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        lines = defaultdict(dict)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        self._last_write = max([self._last_write, *lines])
        for iteration, scalars in lines.items():
            line = json.dumps({**scalars, "iteration": iteration}, sort_keys=True)
            self._file_handle.write(line + "\n")
        self._file_handle.flush()
        with suppress(AttributeError):  # remote files have no descriptor
            os.fsync(self._file_handle.fileno())

    def close(self):
        self._file_handle.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms to an event file in ``log_dir``."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        self._window_size = window_size
        self._writer_args = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        return SummaryWriter(**self._writer_args)

    def write(self):
        storage = get_event_storage()
        newest = self._last_write
        latest = storage.latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self):
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs a line with ETA, iteration, losses, times, learning rate and memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def write(self):
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # training is over: nothing of it is new
        eta = self._get_eta(storage)
        parts = [
            f"{f'eta: {eta}  ' if eta else ''}iter: {storage.iter}",
            self._medians(storage, "loss"),
            self._medians(storage, "[metric]"),
            self._times(storage) + f" lr: {self._learning_rate(storage)}",
            self._memory(),
        ]
        self.logger.info(" " + "  ".join(parts))

    def _medians(self, storage, mark):
        return "  ".join(
            f"{name}: {history.median(storage.count_samples(name, self._window_size)):.4g}"
            for name, history in storage.histories().items()
            if mark in name
        )

    def _times(self, storage):
        text = ""
        if "time" in storage.histories():
            history = storage.history("time")
            text += f"time: {history.global_avg():.4f}  last_time: {history.latest():.4f}  "
        if "data_time" in storage.histories():
            history = storage.history("data_time")
            mean = history.avg(storage.count_samples("data_time", self._window_size))
            text += f"data_time: {mean:.4f}  last_data_time: {history.latest():.4f}  "
        return text

    @staticmethod
    def _learning_rate(storage):
        return f"{storage.history('lr').latest():.5g}" if "lr" in storage.histories() else "N/A"

    @staticmethod
    def _memory():
        if not torch.cuda.is_available():
            return ""
        return f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"

    def _get_eta(self, storage):
        if self._max_iter is None:
            return ""
        steps_left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * steps_left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        # No timer yet: estimate from the last call.
        now, eta = time.perf_counter(), None
        if self._last_write is not None and storage.iter > self._last_write[0]:
            per_step = (now - self._last_write[1]) / (storage.iter - self._last_write[0])
            eta = str(datetime.timedelta(seconds=int(per_step * steps_left)))
        self._last_write = (storage.iter, now)
        return eta
