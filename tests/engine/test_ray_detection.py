"""Many images on a local Ray cluster of two workers."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from detection_job import detections, make_job

from sparsenet.engine.detection import run_detection
from sparsenet.engine.processes import ProcessError
from sparsenet.engine.ray_detection import RayWorkers, run_ray_detection
from sparsenet.errors import ImageReadError

pytest.importorskip("pyvips", reason="needs the extra sparsenet[gigapixel]")


@pytest.mark.slow
def test_two_workers_find_the_same_and_leave_what_is_finished(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs the extra sparsenet[ray]")
    pytest.importorskip("ray.data", reason="needs the extra sparsenet[ray]")
    job = make_job(tmp_path, num_images=3)
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    (tmp_path / "images/2.png").rename(tmp_path / "stored")  # results go by the link's name
    (tmp_path / "images/2.png").symlink_to(tmp_path / "stored")
    here = run_detection(job).summaries
    job = replace(job, output=tmp_path / "ray")
    # For the workers: where the small model's module lies, and no lower priority than ours.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        seen = []
        run = run_ray_detection(job, RayWorkers(num_workers=2), on_result=seen.append)
        files = {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").rglob("*.json")}
        again = run_ray_detection(job, RayWorkers(num_workers=2))
    finally:
        ray.shutdown()
    assert len(run.summaries) == len(seen) == len(here) == 3
    assert [path.name for path, _ in run.failures] == ["broken.png"]
    for summary in here:
        name = Path(summary["folder"]).name
        np.testing.assert_allclose(
            detections(Path(summary["folder"])), detections(tmp_path / "ray" / name), atol=2e-3
        )
        assert json.loads((tmp_path / "ray" / name / "finished.json").read_text())
    assert len(again.summaries) == 3
    assert files == {path: path.stat().st_mtime_ns for path in (tmp_path / "ray").rglob("*.json")}


def test_inputs_are_checked_before_a_cluster_is_asked_for(tmp_path):
    pytest.importorskip("ray.data", reason="needs the extra sparsenet[ray]")
    job = make_job(tmp_path, num_images=0)
    with pytest.raises(ImageReadError, match="has none"):
        run_ray_detection(job, RayWorkers())


def test_a_cluster_that_is_not_there(tmp_path, monkeypatch):
    pytest.importorskip("ray.data", reason="needs the extra sparsenet[ray]")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ProcessError, match="Start one with `ray start"):
        run_ray_detection(make_job(tmp_path), RayWorkers(address="auto"))


@pytest.mark.parametrize("error", [ConnectionError("no cluster"), SystemExit("no answer")])
def test_a_dead_address_is_told(tmp_path, monkeypatch, error):
    ray = pytest.importorskip("ray", reason="needs the extra sparsenet[ray]")

    def init(**options):
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ProcessError, match=r"none was found at '10\.0\.0\.1:6379' \(no"):
        run_ray_detection(make_job(tmp_path), RayWorkers(address="10.0.0.1:6379"))
