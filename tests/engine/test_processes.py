"""Several processes on the CPU: the same result, and no process waits for one that has failed."""

import os
import signal

import pytest
import torch
from detectron2.utils import comm

from sparsenet.engine.processes import ProcessError, run_processes
from sparsenet.errors import ConfigError, ImageReadError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counts processes on the CPU")


def gather_ranks(offset):
    return [rank + offset for rank in comm.all_gather(comm.get_rank())]


def fail_on_rank(rank, how):
    if comm.get_rank() == rank:
        how()
    return comm.all_gather(comm.get_rank())  # the others wait here


def raise_ours():
    raise ImageReadError("cut.jpg: the image is truncated")


def raise_bug():
    raise ZeroDivisionError("a bug")


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_process_is_the_calling_one():
    assert run_processes(os.getpid, 1) == os.getpid()


@pytest.mark.slow
def test_the_main_process_returns():
    assert run_processes(gather_ranks, 2, 10) == [10, 11]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (raise_ours, ImageReadError, "cut.jpg: the image is truncated"),
        (raise_bug, ProcessError, "a bug"),
        (be_killed, ProcessError, "SIGKILL"),
    ],
)
def test_a_failing_process_ends_all(how, error, message):
    with pytest.raises(error, match=message):
        run_processes(fail_on_rank, 2, 1, how)


def test_there_must_be_a_process():
    with pytest.raises(ConfigError, match="at least 1"):
        run_processes(os.getpid, 0)
