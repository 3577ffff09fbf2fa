"""Files through the engine: resuming after a kill, several processes, several machines."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detection_job import detections, make_job

from sparsenet.engine.detection import ImageDetector, build_predictor, run_detection
from sparsenet.errors import ImageReadError, OutputError

pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")


def assert_same_detections(folder: Path, other: Path) -> None:
    one, two = detections(folder), detections(other)
    assert len(one) > 20
    np.testing.assert_allclose(one, two, atol=2e-3, rtol=1e-4)


class Interrupted(Exception):
    """As a power cut would."""


class Counter:
    """Counts tiles; interrupts after some."""

    def __init__(self, stop_after=10**9):
        self.num_run = 0
        self.stop_after = stop_after
        self.last = None

    def __call__(self, event):
        self.last = event
        if event.kind == "tiles":
            self.num_run = event.num_done - event.num_resumed
            if self.num_run >= self.stop_after:
                raise Interrupted


def detect(job, counter) -> None:
    image = next((job.output.parent / "images").iterdir())
    ImageDetector(job, build_predictor(job.cfg), log=counter).detect(image, job.output / "0")


def test_an_interrupted_image_goes_on_from_its_rows(tmp_path):
    job = make_job(tmp_path, resume=True)
    whole = Counter()
    detect(replace(job, output=tmp_path / "whole"), whole)
    with pytest.raises(Interrupted):
        detect(job, Counter(stop_after=whole.num_run // 2))
    assert len(list((job.output / "0/tile_rows").glob("*.npz"))) >= 3
    rest = Counter()
    detect(job, rest)
    assert 0 < rest.num_run < whole.num_run
    assert rest.last.num_resumed + rest.num_run == whole.num_run == rest.last.num_done
    assert_same_detections(job.output / "0", tmp_path / "whole" / "0")
    assert not (job.output / "0/tile_rows").exists()


def test_finished_images_are_left_and_other_options_start_anew(tmp_path):
    job = make_job(tmp_path, resume=True)
    detect(job, Counter())
    before = (job.output / "0/detections.json").stat().st_mtime_ns
    again = Counter()
    detect(job, again)
    assert again.last is None
    assert (job.output / "0/detections.json").stat().st_mtime_ns == before
    for other in (
        replace(job, resume=False),
        replace(job, report=replace(job.report, threshold=0.5)),
    ):
        counter = Counter()
        detect(other, counter)
        assert counter.num_run > 0


def test_other_class_names_make_a_result_of_its_own(tmp_path):
    job = make_job(tmp_path, resume=True)
    detect(job, Counter())
    weights = torch.load(job.cfg.MODEL.WEIGHTS)
    torch.save(weights | {"class_names": ["d", "e", "f"]}, job.cfg.MODEL.WEIGHTS)
    counter = Counter()
    detect(job, counter)
    assert counter.last is not None
    summary = json.loads((job.output / "0/summary.json").read_text())
    assert set(summary["counts"]) <= {"d", "e", "f"}


def test_only_the_process_that_writes_tells_of_a_finished_image(tmp_path):
    job = make_job(tmp_path, resume=True)
    predictor = build_predictor(job.cfg)
    arguments = (tmp_path / "images/0.png", tmp_path / "out/0")
    summary = ImageDetector(job, predictor).detect(*arguments)
    assert ImageDetector(job, predictor).detect(*arguments) == summary
    assert ImageDetector(job, predictor, writes=False).detect(*arguments) is None


class GrowingFolder(tuple):
    """Inputs: a folder that has one more image each time it is listed."""

    def __iter__(self):
        folder = Path(self[0])
        shutil.copy(folder / "0.png", folder / f"{len(list(folder.iterdir()))}.png")
        return super().__iter__()


def test_inputs_are_listed_once(tmp_path):
    """Several processes that each listed them would take shares of different lists."""
    job = make_job(tmp_path, select="all")
    run = run_detection(replace(job, inputs=GrowingFolder(job.inputs)))
    assert [Path(s["folder"]).name for s in run.summaries] == ["0", "1"]


def test_a_folder_in_the_way_is_told(tmp_path):
    job = make_job(tmp_path)
    (tmp_path / "out/0/finished.json").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"finished\.json: what an earlier run left cannot be"):
        detect(job, Counter())


def test_without_resume_old_rows_are_not_used(tmp_path):
    job = make_job(tmp_path)
    with pytest.raises(Interrupted):
        detect(job, Counter(stop_after=20))
    counter = Counter()
    detect(job, counter)
    assert counter.last.num_resumed == 0


def test_an_unreadable_image_is_noted_and_the_others_are_done(tmp_path):
    job = make_job(tmp_path, num_images=2)
    (tmp_path / "images/1.png").write_bytes(b"no image")
    run = run_detection(job)
    assert [s["folder"] for s in run.summaries] == [str(tmp_path / "out/0")]
    assert [path.name for path, _ in run.failures] == ["1.png"]
    with pytest.raises(ImageReadError, match="has none"):
        run_detection(replace(job, inputs=(str(tmp_path / "out"),)))


# -------------------------------------------------------------------- other processes


@pytest.mark.slow
def test_kill_9_and_resume_give_the_same_and_run_no_row_twice(tmp_path):
    job = make_job(tmp_path, resume=True)
    whole = Counter()
    detect(replace(job, output=tmp_path / "whole"), whole)
    code = f"import detection_job; detection_job.run_slowly({str(tmp_path)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", "import sparsenet; " + code], env=environment)
    rows = tmp_path / "out/0/tile_rows"
    deadline = time.monotonic() + 240
    while len(list(rows.glob("*.npz"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    num_kept = len(list(rows.glob("*.npz")))
    rest = Counter()
    detect(job, rest)
    assert num_kept >= 5
    assert rest.last.num_resumed > 0
    assert rest.num_run == whole.num_run - rest.last.num_resumed
    assert_same_detections(tmp_path / "out/0", tmp_path / "whole/0")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="compares processes on the CPU")
@pytest.mark.parametrize(("num_images", "select"), [(1, "coarse_to_fine"), (1, "all"), (3, "all")])
def test_two_processes_find_the_same_as_one(tmp_path, num_images, select, capfd):
    job = make_job(tmp_path, num_images, select=select)
    one = run_detection(replace(job, output=tmp_path / "one"))
    two = run_detection(replace(job, output=tmp_path / "two"), num_processes=2)
    assert capfd.readouterr().err.count("tiles are saturated") == num_images  # each told once
    assert len(one.summaries) == len(two.summaries) == num_images
    for first, second in zip(one.summaries, two.summaries):
        assert Path(first["folder"]).name == Path(second["folder"]).name
        assert first["selection"] == second["selection"]
        assert_same_detections(Path(first["folder"]), Path(second["folder"]))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="compares processes on the CPU")
def test_a_truncated_image_fails_in_all_processes_that_share_it(tmp_path, capfd):
    """Only the one with the lower rows meets the damage; the other must not wait for it."""
    job = make_job(tmp_path, select="all")
    image = cv2.imread(str(tmp_path / "images/0.png"))
    data = cv2.imencode(".jpg", image)[1].tobytes()
    (tmp_path / "images/0.png").unlink()
    (tmp_path / "images/0.jpg").write_bytes(data[: int(len(data) * 0.8)])
    run = run_detection(job, num_processes=2)
    assert not run.summaries
    assert "truncated" in run.failures[0][1]
    assert capfd.readouterr().err.count("ERROR sparsenet.engine.detection") == 1


def test_an_image_that_the_mask_does_not_fit_is_noted(tmp_path):
    job = make_job(tmp_path, num_images=2)
    cv2.imwrite(str(tmp_path / "images/1.png"), np.zeros((90, 300, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((50, 70), 255, np.uint8))
    cfg = job.cfg.clone()
    cfg.defrost()
    cfg.TEST.TILE.SELECT, cfg.TEST.TILE.SELECTION.MASK = "mask", str(tmp_path / "mask.png")
    run = run_detection(replace(job, cfg=cfg))
    assert [Path(s["folder"]).name for s in run.summaries] == ["0"]
    assert [path.name for path, _ in run.failures] == ["1.png"]
    assert "proportions" in run.failures[0][1]
