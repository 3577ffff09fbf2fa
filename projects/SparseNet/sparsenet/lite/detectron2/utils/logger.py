"""Stands in for detectron2.utils.logger: has setup_logger, log_first_n, log_every_n(_seconds) and
create_small_table; lacks buffered logs on remote storage."""

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter

from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from termcolor import colored

_DATE_FORMAT = "%m/%d %H:%M:%S"
_PLAIN_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"


class _ColorfulFormatter(logging.Formatter):
    def __init__(self, root_name: str, abbrev_name: str):
        header = colored("[%(asctime)s %(name)s]: ", "green")
        super().__init__(header + "%(message)s", datefmt=_DATE_FORMAT)
        self._old, self._new = root_name + ".", abbrev_name + "." if abbrev_name else ""

    def formatMessage(self, record):
        record.name = record.name.replace(self._old, self._new)
        line = super().formatMessage(record)
        if record.levelno < logging.WARNING:
            return line
        is_error = record.levelno >= logging.ERROR
        attributes = ["blink", "underline"] if is_error else ["blink"]
        label = "ERROR" if is_error else "WARNING"
        return colored(label, "red", attrs=attributes) + " " + line


@functools.lru_cache  # a second call with the same arguments adds no second handler
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Sends the logger ``name`` to standard output (rank 0) and to a file (every rank).

    Args:
        output: a folder (the file is log.txt in it), or a file ending in .txt or .log; None: no
            file. Ranks above 0 append ``.rank<N>`` to the name.
        abbrev_name: stands for ``name`` in the lines; None: "d2" for detectron2, else ``name``.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    plain = logging.Formatter(_PLAIN_FORMAT, datefmt=_DATE_FORMAT)
    if configure_stdout and distributed_rank == 0:
        short = ("d2" if name == "detectron2" else name) if abbrev_name is None else abbrev_name
        formatter = _ColorfulFormatter(name, str(short)) if color else plain
        _add_handler(logger, logging.StreamHandler(stream=sys.stdout), formatter)
    if output is not None:
        is_file = output.endswith((".txt", ".log"))
        filename = output if is_file else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            filename += f".rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(filename) or ".")
        _add_handler(logger, logging.StreamHandler(_open_log(filename)), plain)
    return logger


def _add_handler(logger, handler, formatter) -> None:
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


@functools.cache
def _open_log(filename: str):
    """One open file per name, so that several loggers can share it."""
    stream = PathManager.open(filename, "a")
    atexit.register(stream.close)
    return stream


_LOG_COUNTER: Counter = Counter()
_LOG_TIMER: dict[tuple, float] = {}


def _find_caller() -> tuple[str, tuple]:
    """The module outside this file that called, and a key for the line."""
    frame = sys._getframe(2)
    while frame.f_globals["__name__"] == __name__ and frame.f_back is not None:
        frame = frame.f_back
    module = frame.f_globals["__name__"]
    key = (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
    return "detectron2" if module == "__main__" else module, key


def log_first_n(lvl, msg, n=1, *, name=None, key="caller") -> None:
    """Logs the first ``n`` times.

    Args:
        name: of the logger; None: the caller's module.
        key: "caller", "message" or a tuple of both: what makes two calls the same.
    """
    keys = (key,) if isinstance(key, str) else key
    assert len(keys) > 0, "key needs 'caller' or 'message'."
    module, caller = _find_caller()
    identity = (caller if "caller" in keys else ()) + ((msg,) if "message" in keys else ())
    _LOG_COUNTER[identity] += 1
    if _LOG_COUNTER[identity] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl, msg, n=1, *, name=None) -> None:
    """Logs the first and then every ``n``-th call from the same line."""
    module, caller = _find_caller()
    _LOG_COUNTER[caller] += 1
    if n == 1 or _LOG_COUNTER[caller] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl, msg, n=1, *, name=None) -> None:
    """Logs at most once in ``n`` seconds from the same line."""
    module, caller = _find_caller()
    now = time.time()
    if caller not in _LOG_TIMER or now - _LOG_TIMER[caller] >= n:
        logging.getLogger(name or module).log(lvl, msg)
        _LOG_TIMER[caller] = now


def create_small_table(small_dict: dict) -> str:
    """Returns one row of values under its keys."""
    return tabulate(
        [tuple(small_dict.values())],
        headers=tuple(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
