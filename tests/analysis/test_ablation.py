"""Ablations: what a file describes, and what is not done twice."""

import json
from pathlib import Path

import pytest

from sparsenet.analysis.ablation import read_ablation, train
from sparsenet.analysis.ablation_table import ablation_table
from sparsenet.errors import ConfigError, DatasetError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs/sample/sparse_rcnn_sparsenet_conv_nano_fpn_sample.yaml"
FILE = f"""
config_file: {CONFIG}
seeds: [1, 2]
common: {{SOLVER.MAX_ITER: 5}}
variants:
  "conv, half": {{MODEL.SPARSENET.KEEP_RATIO: "(0.5, 0.5, 0.5, 0.5)"}}
  ls: {{MODEL.SPARSENET.LOCAL_MODULE: ls}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ablation.yaml"
    path.write_text(FILE)
    return path


def test_runs_go_seed_by_seed_with_their_overrides(file: Path, tmp_path: Path) -> None:
    runs = read_ablation(file, tmp_path, ("TEST.EVAL_PERIOD", "3"))
    assert [(run.variant, run.seed) for run in runs] == [
        ("conv, half", 1), ("ls", 1), ("conv, half", 2), ("ls", 2),
    ]  # fmt: skip
    assert runs[0].folder == tmp_path / "conv_half" / "seed_1"
    assert runs[1].opts == [
        "SOLVER.MAX_ITER", "5", "MODEL.SPARSENET.LOCAL_MODULE", "ls", "TEST.EVAL_PERIOD", "3",
        "SEED", "1", "OUTPUT_DIR", str(runs[1].folder),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds: [1, 2]", "seeds: []", "must have the form"),
        ("seeds: [1, 2]", "seed: [1]", "must have the form"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "must differ"),
        ("variants:", "variants: [", "must have the form"),
        ("common:", "shared:", "must have the form"),
        ("LOCAL_MODULE: ls", "LOCAL_MODUL: ls", "Did you mean MODEL.SPARSENET.LOCAL_MODULE"),
        (str(CONFIG), "nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_mistakes_are_found_before_any_training(
    file: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    file.write_text(FILE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_ablation(file, tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml must have the form"):
        read_ablation(tmp_path / "absent.yaml", tmp_path)


def script(tmp_path: Path, body: str) -> Path:
    """A training script of one's own, as any that writes metrics.json."""
    path = tmp_path / "train.py"
    path.write_text(f"import sys, pathlib\nfolder = pathlib.Path(sys.argv[-1])\n{body}\n")
    return path


def test_a_finished_run_is_not_repeated(file: Path, tmp_path: Path) -> None:
    run = read_ablation(file, tmp_path)[0]
    body = (
        'lines = [\'{"iteration": 1, "bbox/AP50": 2.5, "lr": 1}\'] * 2\n'
        "(folder / 'metrics.json').write_text('\\n'.join(lines))\n"
        "with (folder / 'calls').open('a') as stream: stream.write('x')"
    )
    path = script(tmp_path, body)
    for _ in range(2):
        assert train(run, path, num_gpus=0, metric="bbox/AP50") == {"bbox/AP50": 2.5}
    assert (run.folder / "calls").read_text() == "x"
    (run.folder / "run.json").write_text(json.dumps({"opts": ["SOLVER.MAX_ITER", "6"]}))
    with pytest.raises(ConfigError, match="other settings"):
        train(run, path, num_gpus=0, metric="bbox/AP50")


def test_a_failed_run_tells_why_and_is_tried_again(file: Path, tmp_path: Path) -> None:
    run = read_ablation(file, tmp_path)[0]
    with pytest.raises(ConfigError, match=r"status 0, got 3[\s\S]*out of luck"):
        train(run, script(tmp_path, "print('out of luck'); sys.exit(3)"), num_gpus=0, metric="a/b")
    assert run.result() is None
    body = "(folder / 'metrics.json').write_text('{\"iteration\": 1}')"
    with pytest.raises(DatasetError, match="must hold 'a/b'"):
        train(run, script(tmp_path, body), num_gpus=0, metric="a/b")


def test_the_table_has_mean_and_range() -> None:
    cost = {"model": "ls", "gflops": {"total": 1.5, "backbone": 0.25}, "median_s": 0.2, "spread": 0}
    table = ablation_table({"ls": [{"x/AP": 10.0}, {"x/AP": 13.0}]}, [cost], "x/AP")
    cells = [cell.strip() for cell in table.splitlines()[-1].split("|")[1:-1]]
    assert cells == ["ls", "11.5", "10.0–13.0", "2", "1.5", "0.25", "200", "0 %"]
