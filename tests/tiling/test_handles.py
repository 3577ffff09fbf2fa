"""Nothing open is shared between threads or processes."""

import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from sparsenet.tiling.handles import LocalHandles


def open_handle(level: int) -> list[int]:
    return [level, os.getpid()]


def test_a_thread_opens_each_level_once():
    handles = LocalHandles()
    first = handles.get(0, open_handle)
    assert handles.get(0, open_handle) is first
    assert handles.get(1, open_handle) == [1, os.getpid()]


def test_threads_open_their_own():
    handles = LocalHandles()
    mine = handles.get(0, open_handle)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handles.get, 0, open_handle).result() is not mine


def test_a_pickled_copy_has_nothing_open():
    handles = LocalHandles()
    mine = handles.get(0, open_handle)
    assert pickle.loads(pickle.dumps(handles)).get(0, open_handle) is not mine


def get_in_child(handles: LocalHandles, connection) -> None:
    connection.send(handles.get(0, open_handle))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_opens_its_own():
    handles = LocalHandles()
    handles.get(0, open_handle)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=get_in_child, args=(handles, sender))
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == [0, child.pid]
    child.join()
