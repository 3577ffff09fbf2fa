import threading
import time

import pytest

from sparsenet.gigapixel.prefetch import Prefetcher


def test_items_come_in_order_and_the_thread_ends():
    before = threading.active_count()
    with Prefetcher(range(100)) as items:
        assert list(items) == list(range(100))
    assert threading.active_count() == before


def test_work_runs_ahead_by_the_depth_only():
    made = []

    def source():
        for i in range(50):
            made.append(i)
            yield i

    with Prefetcher(source(), depth=2) as items:
        taken = iter(items)
        next(taken)
        for _ in range(3000):  # the thread needs a moment to fill the queue
            if len(made) == 4:
                break
            time.sleep(0.01)
        assert len(made) == 4  # one taken, two ready, one waiting for its place


def test_an_error_comes_after_the_items_before_it():
    def source():
        yield 1
        raise ValueError("broken source")

    taken = []
    with pytest.raises(ValueError, match="broken source"), Prefetcher(source()) as items:
        for item in items:
            taken.append(item)
    assert taken == [1]


def test_leaving_early_ends_an_endless_source():
    def source():
        while True:
            yield 0

    before = threading.active_count()
    with Prefetcher(source()) as items:
        assert next(iter(items)) == 0
    assert threading.active_count() == before
