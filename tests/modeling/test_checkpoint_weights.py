"""Reading weights: what is refused, what is reported."""

import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from sparsenet.errors import CheckpointError
from sparsenet.modeling.checkpoint import load_weights, read_checkpoint


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_round_trip_in_every_container(tmp_path: Path, wrap, prefix: str) -> None:
    source, target = model(), model()
    state = {prefix + k: v for k, v in source.state_dict().items()}
    torch.save(wrap(state), tmp_path / "w.pth")
    report = load_weights(target, tmp_path / "w.pth")
    assert report.is_complete and len(report.matched) == 4
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters()))


def test_half_precision_weights_are_cast(tmp_path: Path) -> None:
    source, target = model(), model()
    torch.save({k: v.half() for k, v in source.state_dict().items()}, tmp_path / "w.pth")
    load_weights(target, tmp_path / "w.pth")
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, source[0].weight.half().float())


def test_report_of_a_partial_fit(tmp_path: Path) -> None:
    state = model().state_dict()
    state["1.weight"] = torch.zeros(5, 4)
    state["extra"] = state.pop("0.bias")
    torch.save(state, tmp_path / "w.pth")
    target = model()
    before = target[1].weight.clone()
    report = load_weights(target, tmp_path / "w.pth")
    assert report.missing == ("0.bias",) and report.unexpected == ("extra",)
    assert report.wrong_shape == ("1.weight: (5, 4) -> (2, 4)",)
    assert torch.equal(target[1].weight, before)


def test_weights_of_another_model_fail_with_the_report(tmp_path: Path) -> None:
    torch.save({"backbone.stem.weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"belongs to another one: 0 matched, 4 missing"):
        load_weights(model(), tmp_path / "w.pth")


class Payload:
    """Something that only pickle can restore."""

    def __reduce__(self):
        return (print, ("code ran",))


def test_pickles_need_trust(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"model": model().state_dict(), "extra": Payload()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="--trust-checkpoint"):
        read_checkpoint(tmp_path / "w.pth")
    (tmp_path / "w.pkl").write_bytes(
        pickle.dumps({"model": {"a": torch.ones(1).numpy()}, "x": Payload()})
    )
    with pytest.raises(CheckpointError, match="--trust-checkpoint"):
        read_checkpoint(tmp_path / "w.pkl")
    assert "code ran" not in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "w.pkl", trust=True)["model"]["a"].item() == 1.0
    assert "code ran" in capsys.readouterr().out


class Hub(OrderedDict):
    """Of a package that the reader lacks; the other classes are, too."""


class History(list):
    pass


class Record:
    def __init__(self) -> None:
        self.values = torch.ones(2)


def make_record(_name: str) -> Record:
    return Record()


class Made:
    def __reduce__(self):
        return make_record, ("name",)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, None])
def test_objects_of_classes_that_are_not_installed_are_left_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, options
) -> None:
    framework = ModuleType("a_framework")
    monkeypatch.setitem(sys.modules, "a_framework", framework)
    for thing in (Hub, History, Record, make_record):
        monkeypatch.setattr(thing, "__module__", "a_framework")
        setattr(framework, thing.__name__, thing)
    hub = Hub(log=History([1.0, Record()]), made=Made())
    state = model().state_dict() if options is not None else {"0.bias": torch.ones(4).numpy()}
    content = {"meta": {"epoch": 12}, "state_dict": state, "message_hub": hub}
    path = tmp_path / ("w.pkl" if options is None else "w.pth")
    if options is None:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, **options)
    monkeypatch.delitem(sys.modules, "a_framework")
    with pytest.raises(CheckpointError, match="--trust-checkpoint"):
        read_checkpoint(path)
    with caplog.at_level("INFO"):
        checkpoint = read_checkpoint(path, trust=True)
    assert checkpoint["model"].keys() == state.keys() and checkpoint["meta"] == {"epoch": 12}
    assert "a_framework.Hub is not installed" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"model": Made()}, 0).replace(b"make_record", b"_absent_one"), "not _Absent"),
        (b"cbuiltins\nint\n(NtR.", "is not a readable pickle: int"),
    ],
)
def test_trusted_files_without_weights_are_named(tmp_path: Path, content, message) -> None:
    (tmp_path / "w.pkl").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"w\.pkl .*{message}"):
        read_checkpoint(tmp_path / "w.pkl", trust=True)


def test_missing_empty_truncated_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="empty"):
        read_checkpoint(path)
    torch.save(model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds list"):
        read_checkpoint(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="must hold weights"):
        read_checkpoint(path)
