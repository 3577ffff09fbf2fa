import json
from itertools import pairwise
from pathlib import Path

import pytest
from blob_detector import BlobDetector, plant

from sparsenet.errors import OutputError
from sparsenet.gigapixel import GigapixelPredictor, TileOptions
from sparsenet.gigapixel.progress import JsonLog, ProgressBar, ProgressEvent, ProgressTracker

TILE = TileOptions(size=128, overlap=48, batch_size=4)


def detect(**options):
    predictor = GigapixelPredictor(BlobDetector(), tile=TILE)
    return predictor(plant((300, 300), [[10, 10, 30, 40]]), **options)


def test_a_callable_is_told_of_every_step():
    events = []
    result = detect(progress=False, on_progress=events.append)
    assert [event.kind for event in events] == ["start", "selected", *["tiles"] * 4, "end"]
    assert [event.num_done for event in events] == [0, 0, 4, 8, 12, 16, 16]
    assert {event.num_tiles for event in events[1:]} == {16}
    assert {event.image for event in events} == {"<array>"}
    assert events[1].details == {"1": {"every": 16}}
    assert events[-1].details["seconds"] == result.timings
    assert events[-1].details["num_detections"] == 1
    assert events[-1].megapixels == pytest.approx(16 * 128**2 / 1e6)
    assert all(a.seconds <= b.seconds for a, b in pairwise(events))
    assert events[-1].tiles_per_second > 0 and events[-1].megapixels_per_second > 0


def test_the_bar_shows_tiles_and_megapixels_per_second(capfd):
    detect(progress=True)
    shown = capfd.readouterr().err
    assert "16/16" in shown and "tile/s" in shown and "MP/s" in shown and "<array>" in shown


def test_resumed_tiles_do_not_count_as_speed(capfd):
    events = []
    bar = ProgressBar()
    tracker = ProgressTracker("a.jpg", [events.append, bar])
    tracker.select(100, 90, {})
    tracker.add(10, 1000)
    tracker.end({})
    assert events[-1].num_done == 100
    assert events[-1].tiles_per_second == pytest.approx(10 / events[-1].seconds)
    assert "100/100" in capfd.readouterr().err


def test_the_log_is_json_lines_and_is_appended_to(tmp_path):
    path = tmp_path / "logs" / "run.jsonl"
    for _ in range(2):
        detect(progress=False, on_progress=JsonLog(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["kind"] for line in lines].count("end") == 2
    assert lines[0]["time"] <= lines[-1]["time"]
    assert lines[-1]["num_done"] == 16 and lines[-1]["tiles_per_second"] > 0
    assert set(lines[-1]["details"]["seconds"]) == {"decode", "detect", "merge", "total"}


def test_a_log_that_cannot_be_written_is_told_at_once(tmp_path):
    with pytest.raises(OutputError, match="--log-json"):
        JsonLog(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_told():
    log = JsonLog("/dev/full")
    with pytest.raises(OutputError, match="Make space"):
        log(ProgressEvent("start", "a.jpg"))
