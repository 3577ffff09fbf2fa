"""Configuration: keys, overrides, and what a mistake says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

import sparsenet.modeling  # noqa: F401  registers the architectures
from sparsenet.config import load_config
from sparsenet.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = str(ROOT / "projects" / "SparseNet")
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_yaml_loads(path: Path) -> None:
    cfg = load_config(path)
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
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


def test_the_package_registers_its_models_with_its_keys() -> None:
    code = """
import sys
import sparsenet
assert "torch" not in sys.modules
from sparsenet import add_sparsenet_config
from detectron2.config import get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
cfg = get_cfg()
add_sparsenet_config(cfg)
assert "build_sparsenet_fpn_backbone" in BACKBONE_REGISTRY
assert "SparseRCNN" in META_ARCH_REGISTRY
"""
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": PACKAGES}, check=True
    )
