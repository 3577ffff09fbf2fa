import pytest
import torch

from sparsenet.analysis.op_speed import OPERATORS, OpCase, measure_operator, operator_rows


def test_every_case_runs_and_agrees_with_its_reference():
    for list_cases in OPERATORS.values():
        for case in list_cases(False):
            reference, *others = (run(*case.inputs) for run in case.implementations.values())
            for other in others:
                torch.testing.assert_close(other, reference, atol=1e-4, rtol=1e-4)


def test_records_tell_floor_memory_and_error():
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
