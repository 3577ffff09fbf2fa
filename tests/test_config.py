"""Configuration: keys, overrides, and what a mistake says."""

from pathlib import Path

import pytest

from sparsenet.config import load_config
from sparsenet.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_yaml_loads(path: Path) -> None:
    cfg = load_config(path)
    assert cfg.MODEL.META_ARCHITECTURE in ("SparseRCNN",)
    assert max(cfg.SOLVER.STEPS, default=0) < cfg.SOLVER.MAX_ITER


def test_overrides_win_over_the_file() -> None:
    cfg = load_config(CONFIGS[0], ["SOLVER.BASE_LR", "0.5", "MODEL.SPARSENET.LOCAL_MODULE", "ls"])
    assert cfg.SOLVER.BASE_LR == 0.5
    assert cfg.MODEL.SPARSENET.LOCAL_MODULE == "ls"


def test_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean MODEL\.SPARSENET\.LOCAL_MODULE"):
        load_config(None, ["MODEL.SPARSENET.LOCAL_MODUL", "conv"])


def test_unknown_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("MODEL:\n  SPARSENET:\n    KEEP: 0.5\nVERSION: 2\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml.*MODEL\.SPARSENET\.KEEP"):
        load_config(path)


def test_malformed_yaml_is_a_config_error(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("MODEL: [1,\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(path)


def test_wrong_type_names_the_pair() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR fast"):
        load_config(None, ["SOLVER.BASE_LR", "fast"])


def test_missing_file_and_odd_overrides() -> None:
    with pytest.raises(ConfigError, match="must exist"):
        load_config("nowhere.yaml")
    with pytest.raises(ConfigError, match="KEY VALUE pairs"):
        load_config(None, ["SOLVER.BASE_LR"])
