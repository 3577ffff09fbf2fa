"""Work of an iterator done ahead, in one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

# How often a full queue looks whether its reader has gone.
_POLL_SECONDS = 0.1


class Prefetcher(Generic[T]):
    """Iterates in a thread and keeps a few items ready; use it in a ``with`` statement.

    An error of the source is raised where the items are taken. Leaving the ``with`` block ends the
    thread, whether all items were taken or not.

    Args:
        source: Where the items come from.
        depth: Items kept ready at most; bounds the memory.
    """

    def __init__(self, source: Iterable[T], depth: int = 2) -> None:
        self.busy_seconds = 0.0  # spent in the source, without waiting for the reader
        self._source = source
        self._queue: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)

    def __enter__(self) -> Prefetcher[T]:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            is_item, value = self._queue.get()
            if is_item:
                yield value  # type: ignore[misc]  # the flag says that it is a T
            elif isinstance(value, BaseException):
                raise value
            else:
                return

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            iterator = iter(self._source)
            while not self._stop.is_set():
                start = time.perf_counter()
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                finally:
                    self.busy_seconds += time.perf_counter() - start
                self._put((True, item))
        except BaseException as error:
            end = error  # raised again in the reader's thread
        self._put((False, end))

    def _put(self, entry: tuple[bool, T | BaseException | None]) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(entry, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
