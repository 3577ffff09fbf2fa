"""Checkpoints of runs: format, atomic writing, resuming, refusing."""

from pathlib import Path

import pytest
import torch
from torch import nn

import sparsenet  # noqa: F401
from sparsenet.engine.checkpoint import SafeCheckpointer
from sparsenet.errors import CheckpointError


def test_save_and_resume_restore_everything(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_0000009", iteration=9)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"

    other = nn.Linear(3, 2)
    restored = torch.optim.AdamW(other.parameters(), lr=0.5)
    checkpointer = SafeCheckpointer(other, str(tmp_path), optimizer=restored)
    extra = checkpointer.resume_or_load("ignored", resume=True)
    assert extra["iteration"] == 9
    assert torch.equal(other.weight, model.weight)
    assert restored.param_groups[0]["lr"] == 0.1
    assert checkpointer.report is not None and checkpointer.report.is_complete


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        checkpointer.save("model_final", broken=lambda: None)  # torch.save fails in the middle
    assert (tmp_path / "model_final.pth").read_bytes() == before
    SafeCheckpointer(nn.Linear(3, 2), str(tmp_path)).resume_or_load("", resume=True)


def test_an_interrupted_note_leaves_the_old_one(tmp_path: Path) -> None:
    checkpointer = SafeCheckpointer(nn.Linear(3, 2), str(tmp_path))
    checkpointer.save("model_0000001")
    with pytest.raises(UnicodeEncodeError):
        checkpointer.tag_last_checkpoint("model_\udcff.pth")  # encoding fails after opening
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]


def test_missing_weights_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"MODEL\.WEIGHTS must name a file"):
        SafeCheckpointer(nn.Linear(1, 1), str(tmp_path)).load(str(tmp_path / "none.pth"))


def test_weights_of_another_model_fail(tmp_path: Path) -> None:
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="belongs to another one"):
        SafeCheckpointer(nn.Linear(1, 1), str(tmp_path)).load(str(tmp_path / "w.pth"))


def test_matching_heuristics_find_backbone_weights(tmp_path: Path) -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential()
            self.backbone.add_module("stem", nn.Linear(2, 2))
            self.head = nn.Linear(2, 2)

    path = tmp_path / "w.pth"
    weight = torch.full((2, 2), 7.0)
    torch.save({"stem.weight": weight, "stem.bias": torch.zeros(2)}, path)
    model = Detector()
    SafeCheckpointer(model, str(tmp_path)).load(f"{path}?matching_heuristics=True")
    assert torch.equal(model.backbone.stem.weight, weight)
