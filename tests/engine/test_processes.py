"""Several processes on the CPU: the same result, and no process waits for one that has failed."""

import logging
import os
import re
import signal
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from detectron2.utils import comm

from sparsenet.engine.processes import ProcessError, run_processes
from sparsenet.errors import ConfigError, ImageReadError
from sparsenet.gigapixel.patient_gather import all_gather, patient_group

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="counts processes on the CPU")


def gather_ranks(offset):
    return [rank + offset for rank in all_gather(comm.get_rank())]


def read_timeouts():
    """Of the group of all processes, and of the one of ``all_gather``."""
    groups = (dist.group.WORLD, patient_group())
    return [group._get_backend(torch.device("cpu")).options._timeout for group in groups]


def log_from_all():
    logging.getLogger("sparsenet").info("told by %d", comm.get_rank())
    logging.getLogger("sparsenet").warning("warned by %d", comm.get_rank())


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
def test_processes_wait_for_days():
    timeouts = run_processes(read_timeouts, 2)
    assert min(timeouts) > timedelta(days=7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (logging.INFO, ["told by 0", "warned by 0", "warned by 1"]),
        (logging.ERROR, []),
    ],
)
def test_processes_log_what_the_calling_one_does(level, expected, caplog, capfd):
    with caplog.at_level(level):
        run_processes(log_from_all, 2)
    assert sorted(re.findall(r"(?:told|warned) by \d", capfd.readouterr().err)) == expected


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
