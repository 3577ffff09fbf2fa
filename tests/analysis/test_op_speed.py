import pytest
import torch

from sparsenet.analysis import op_speed
from sparsenet.analysis.op_speed import (
    OPERATORS,
    OpCase,
    copy_bandwidth,
    measure_operator,
    operator_rows,
)
from sparsenet.analysis.tables import milliseconds


def test_every_case_runs_and_agrees_with_its_reference():
    for list_cases in OPERATORS.values():
        for case in list_cases(False):
            reference, *others = (run(*case.inputs) for run in case.implementations.values())
            for other in others:
                torch.testing.assert_close(other, reference, atol=1e-4, rtol=1e-4)


@pytest.fixture
def small_copies(monkeypatch):
    monkeypatch.setattr(op_speed, "COPY_BYTES", 2**20)
    copy_bandwidth.cache_clear()
    yield
    copy_bandwidth.cache_clear()


def test_records_tell_floor_memory_and_error(small_copies):
    case = OpCase(
        "square",
        (torch.ones(1024),),
        {"product": lambda x: x * x, "off by a quarter": lambda x: x.square() * 1.25},
    )
    records = measure_operator(
        [case], device=torch.device("cpu"), dtype=torch.float32, repetitions=1, quiet=True
    )
    assert [record["implementation"] for record in records] == list(case.implementations)
    assert [record["error"] for record in records] == [0, 0.25]
    assert all(record["floor"] == 2 * 4096 for record in records)
    floor = 2 * 4096 / copy_bandwidth(torch.device("cpu"))
    assert all(record["floor_s"] == floor for record in records)
    assert 2 * 4096 / 1e13 < floor < 2 * 4096 / 1e6  # of a machine between 1 MB/s and 10 TB/s
    assert [row["floor, ms"] for row in operator_rows(records)] == [milliseconds(floor)] * 2
    assert all(record["training_peak"] >= 2 * 4096 for record in records)
    assert [row["error"] for row in operator_rows(records)] == ["0e+00", "2e-01"]


def test_compiled_implementations_are_only_there_when_asked_for():
    plain, compiled = ({*OPERATORS["ska"](flag)[0].implementations} for flag in (False, True))
    assert compiled - plain == {"plain, compiled"}


@pytest.mark.parametrize("arguments", [["nothing"], ["ska", "--precision", "int8"]])
def test_the_tool_names_what_it_knows(arguments, capsys):
    from tools.benchmark_ops import main

    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert arguments[-1] in capsys.readouterr().err
