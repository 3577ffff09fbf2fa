"""The converter keeps weights only and halves them on request."""

import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/convert_checkpoint.py", *map(str, arguments)]
    environment = {"PYTHONPATH": str(ROOT / "projects/SparseNet"), "PATH": ""}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_weights_only_in_half_precision(tmp_path: Path) -> None:
    state = {"w": torch.tensor([1.0, 0.1]), "n": torch.tensor(3)}
    torch.save({"model": state, "optimizer": {"lr": 1.0}}, tmp_path / "a.pth")
    result = run(tmp_path / "a.pth", tmp_path / "b.pth", "--half", "--class-names", "cat", "dog")
    assert result.returncode == 0, result.stderr
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert sorted(content) == ["class_names", "model"]
    assert content["class_names"] == ["cat", "dog"]
    assert (
        content["model"]["w"].dtype == torch.float16 and content["model"]["n"].dtype == torch.int64
    )
    assert torch.equal(content["model"]["w"].float(), state["w"].half().float())


def test_names_of_another_project(tmp_path: Path) -> None:
    state = {"features.0.2.bias": torch.ones(4), "head.bias": torch.ones(2)}
    torch.save(state, tmp_path / "a.pth")
    result = run(tmp_path / "a.pth", tmp_path / "b.pth", "--from", "swin", "--prefix", "net.")
    assert result.returncode == 0, result.stderr
    assert "not used of" in result.stdout and "head.bias" in result.stdout
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert list(content["model"]) == ["net.patch_embed.norm.bias"]
    result = run(tmp_path / "a.pth", tmp_path / "b.pth", "--from", "sparseformer")
    assert result.returncode == 2 and "error: The weights must have the keys" in result.stderr


def test_a_torchvision_resnet_fits_a_detector(tmp_path: Path) -> None:
    state = {"bn1.weight": torch.ones(64), "layer1.0.bn2.bias": torch.ones(64)}
    torch.save({**state, "fc.bias": torch.ones(2)}, tmp_path / "a.pth")
    result = run(tmp_path / "a.pth", tmp_path / "b.pth", "--from", "torchvision")
    assert result.returncode == 0 and "not used of" in result.stdout, result.stderr
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    prefix = "backbone.bottom_up."
    assert list(content["model"]) == [
        f"{prefix}stem.conv1.norm.weight", f"{prefix}res2.0.conv2.norm.bias",
    ]  # fmt: skip


def test_an_absent_folder_is_made_and_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "class_names": ["a"]}, tmp_path / "a.pth")
    assert run(tmp_path / "a.pth", tmp_path / "new" / "b.pth").returncode == 0
    assert torch.load(tmp_path / "new" / "b.pth", weights_only=True)["class_names"] == ["a"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.pth"]
    result = run(tmp_path / "a.pth", tmp_path / "a.pth" / "b.pth")
    assert result.returncode == 2 and "must go to a folder" in result.stderr


def test_missing_input_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path / "none.pth", tmp_path / "b.pth")
    assert result.returncode == 2 and "error: The weights must be a file" in result.stderr
