"""What a detector consists of and costs, as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from fvcore.nn import flop_count_str, parameter_count, parameter_count_table
from torch import nn

from sparsenet.analysis.flops import ActivationCount, FlopCount
from sparsenet.analysis.parts import by_part
from sparsenet.analysis.tables import giga, markdown_table, percent

TASKS = ("flops", "params", "activations", "structure", "speed")


def describe_parameters(model: nn.Module, max_depth: int = 3) -> str:
    """Parameters by part, then by module."""
    counts = parameter_count(model)
    rows = [
        {"part": part, "parameters": f"{count:,}", "share": percent(count / max(1, counts[""]))}
        for part, count in by_part(counts).items()
    ]
    return f"{markdown_table(rows)}\n\n{parameter_count_table(model, max_depth=max_depth)}"


def describe_flops(model: nn.Module, example: dict[str, Any]) -> str:
    """FLOPs of one image by part and by operator, and the operators that are not counted.

    Args:
        example: one element of a detector's batch.
    """
    analysis = FlopCount(model, [[example]])
    height, width = example["image"].shape[-2:]
    return "\n\n".join(
        [
            f"One image of {width} × {height} px; a multiply-add is one FLOP:",
            _table_by_part(analysis.by_module(), "GFLOPs"),
            _table_by_operator(analysis.by_operator(), "GFLOPs"),
            _list_uncounted(analysis.unsupported_ops()),
        ]
    )


def describe_activations(model: nn.Module, example: dict[str, Any]) -> str:
    """Outputs of products and convolutions for one image, 10⁹ values, by part and operator."""
    analysis = ActivationCount(model, [[example]])
    name = "activations, 10⁹"
    parts = _table_by_part(analysis.by_module(), name)
    return f"{parts}\n\n{_table_by_operator(analysis.by_operator(), name)}"


def describe_structure(model: nn.Module, example: dict[str, Any]) -> str:
    """The module tree with parameters, FLOPs and activations of every module."""
    return flop_count_str(FlopCount(model, [[example]]), ActivationCount(model, [[example]]))


def _table_by_part(totals: Mapping[str, float], unit: str) -> str:
    parts = by_part(totals)
    return markdown_table(
        [
            {"part": part, unit: giga(count), "share": percent(count / max(1, parts["total"]))}
            for part, count in parts.items()
        ]
    )


def _table_by_operator(counts: Counter[str], unit: str) -> str:
    total = max(1, sum(counts.values()))
    return markdown_table(
        [
            {"operator": name, unit: giga(count), "share": percent(count / total)}
            for name, count in counts.most_common()
        ]
    )


def _list_uncounted(calls: Counter[str]) -> str:
    names = ", ".join(f"{name} {count}" for name, count in calls.most_common())
    return f"Not counted, with the number of calls: {names or 'nothing'}."
