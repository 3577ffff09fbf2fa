"""Keys that exclude each other, and that no config of the project combines them."""

from pathlib import Path

import pytest

from sparsenet.config import load_config
from sparsenet.engine.key_combinations import require_possible
from sparsenet.errors import ConfigError

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").rglob("*.yaml"))
SEMANTIC = ("MODEL.META_ARCHITECTURE", "SemanticSegmentor")


def test_all_configs_are_possible() -> None:
    for path in CONFIGS:
        require_possible(load_config(path))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ((*SEMANTIC, "INPUT.TILE.ENABLED", "True"), "INPUT.TILE.ENABLED must be off"),
        ((*SEMANTIC, "TEST.TILE.ENABLED", "True"), "TEST.TILE.ENABLED must be off"),
        ((*SEMANTIC, "INPUT.LETTERBOX", "64"), "INPUT.LETTERBOX or .* must be off"),
        ((*SEMANTIC, "INPUT.AUG.BLUR.PROB", "0.5"), "PROB of an INPUT.AUG must be off"),
        (("MODEL.MASK_ON", "True", "INPUT.TILE.ENABLED", "True"), "MASK_ON must be False"),
    ],
)
def test_what_excludes_each_other(opts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_possible(load_config(None, opts))
