"""Open files that neither threads nor forked processes share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any


class LocalHandles:
    """What each process and thread has opened for itself, one handle per stored level.

    Decoders keep a position in their file; a forked worker that used its parent's would move it
    under the parent's feet. A pickled copy has nothing open.
    """

    def __init__(self) -> None:
        self._local = threading.local()
        self._inherited: list[Any] = []

    def __reduce__(self) -> tuple[type[LocalHandles], tuple[()]]:
        return LocalHandles, ()

    def get(self, level: int, open_handle: Callable[[int], Any]) -> Any:
        """This process's and thread's handle of a level, opened on the first call."""
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            # Keeps what a parent process opened: closing it here would disturb the parent's file.
            self._inherited.append(getattr(local, "handles", None))
            local.pid, local.handles = os.getpid(), {}
        if level not in local.handles:
            local.handles[level] = open_handle(level)
        return local.handles[level]
