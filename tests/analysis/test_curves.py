"""Curves of metrics.json."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from sparsenet.analysis.curves import choose_keys, plot_curves, read_metrics, running_median
from sparsenet.errors import DatasetError, DatasetNotFoundError


def write_lines(path: Path, *lines: dict) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_later_lines_win_and_iterations_rise(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "metrics.json",
        {"iteration": 19, "total_loss": 3.0, "lr": 0.1},
        {"iteration": 39, "total_loss": 2.0},
        {"iteration": 19, "total_loss": 2.5},
        {"iteration": 19, "bbox/AP": float("nan")},
    )
    run = read_metrics(tmp_path)
    assert [line["iteration"] for line in run] == [19, 39]
    assert run[0]["total_loss"] == 2.5 and run[0]["lr"] == 0.1 and np.isnan(run[0]["bbox/AP"])
    assert read_metrics(tmp_path / "metrics.json")[1] == run[1]


def test_a_missing_an_empty_and_a_cut_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"metrics\.json or the folder of a run"):
        read_metrics(tmp_path)
    path = tmp_path / "metrics.json"
    path.write_text("")
    with pytest.raises(DatasetError, match="at least one line"):
        read_metrics(path)
    for line in ('{"iteration": 3, "total_l', '{"loss": 1}', "[1]"):
        path.write_text('{"iteration": 1}\n' + line)
        with pytest.raises(DatasetError, match=r"metrics\.json:2 must be"):
            read_metrics(path)


def test_keys_of_earlier_stages_are_left_out_unless_named() -> None:
    line = {"iteration": 0, "total_loss": 1.0, "loss_ce": 1.0, "loss_ce_0": 1.0, "time": 1.0}
    runs = {"a": [line], "b": [{"iteration": 1, "bbox/AP50": 3.0, "note": "text"}]}
    assert choose_keys(runs) == ["total_loss", "loss_ce", "bbox/AP50"]
    assert choose_keys(runs, ["loss_ce_0", "bbox/*"]) == ["loss_ce_0", "bbox/AP50"]
    with pytest.raises(DatasetError, match=r"There are bbox/AP50.*Choose with --keys"):
        choose_keys(runs, ["nothing*"])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.integers(1, 9))
def test_running_median_stays_among_its_neighbours(values: list[float], window: int) -> None:
    result = running_median(np.array(values), window)
    assert len(result) == len(values)
    for i, value in enumerate(result):
        around = values[max(0, i - window) : i + window + 1]
        assert min(around) <= value <= max(around)
    if window == 1:
        assert result.tolist() == values


def test_two_runs_are_drawn_in_two_colours(tmp_path: Path) -> None:
    runs = {
        name: [{"iteration": i, "total_loss": start / (i + 1)} for i in range(20)]
        for name, start in (("a", 3.0), ("b", 9.0))
    }
    plot_curves(runs, ["total_loss"], tmp_path / "curves.png", window=5)
    pixels = cv2.imread(str(tmp_path / "curves.png"))[..., ::-1]
    for colour in ((31, 119, 180), (255, 127, 14)):  # matplotlib's C0 and C1
        assert (np.abs(pixels.astype(int) - colour).max(axis=-1) < 8).sum() > 50


def test_epochs_of_a_classifier_are_its_iterations(tmp_path: Path) -> None:
    rows = [{"epoch": 0, "val_top1": 20.0}, {"epoch": 1, "val_top1": 60.0}]
    write_lines(tmp_path / "train_log.txt", *rows)
    run = read_metrics(tmp_path)
    assert [(line["iteration"], line["val_top1"]) for line in run] == [(0, 20.0), (1, 60.0)]


@pytest.mark.parametrize("key", ["iteration", "epoch"])
def test_the_axis_tells_what_is_counted(tmp_path: Path, monkeypatch, key) -> None:
    labels = []
    monkeypatch.setattr(Axes, "set_xlabel", lambda _, label, **options: labels.append(label))
    run = read_metrics(write_lines(tmp_path / "a.json", {key: 1, "loss": 2.0}))
    plot_curves({"a": run}, ["loss"], tmp_path / "a.png")
    assert labels == [key]
