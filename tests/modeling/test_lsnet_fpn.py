"""The pyramid of LSNet's published detectors, and their configurations."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import FPN, build_backbone, build_model

from sparsenet.config import load_config
from sparsenet.errors import ConfigError
from sparsenet.modeling.backbone import LSNet
from sparsenet.modeling.neck import LSNetFPN

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STAGES = ["stage1", "stage2", "stage3", "stage4"]
RECIPES = sorted(CONFIGS.glob("*/*_lsnet_[tsb]_*.yaml"))


def backbone(extra_level: str) -> LSNetFPN:
    torch.manual_seed(0)
    return LSNetFPN(LSNet(size="nano", norm_eval=False), STAGES, 16, extra_level=extra_level).eval()


@pytest.mark.parametrize(
    ("extra_level", "strides"),
    [("p7", (8, 16, 32, 64, 128)), ("p2", (4, 8, 16, 32, 64))],
)
@pytest.mark.parametrize("size", [(96, 160), (64, 32), (128, 192)])
def test_maps_have_the_declared_strides(extra_level, strides, size) -> None:
    model = backbone(extra_level)
    with torch.no_grad():
        maps = model(torch.rand(1, 3, *size))
    shapes = model.output_shape()
    assert list(maps) == list(shapes) and [s.stride for s in shapes.values()] == list(strides)
    for name, stride in zip(maps, strides):
        assert maps[name].shape == (1, 16, -(-size[0] // stride), -(-size[1] // stride))
    assert model.size_divisibility == 32


def test_where_sides_halve_evenly_it_is_detectron2s() -> None:
    ours = backbone("p7")
    theirs = FPN(ours.bottom_up, STAGES, 16).eval()
    assert not theirs.load_state_dict(ours.state_dict(), strict=False).missing_keys
    images = torch.rand(2, 3, 128, 64)
    with torch.no_grad():
        expected, actual = theirs(images), ours(images)
    assert set(actual) - set(expected) == {"p7"}
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@pytest.mark.parametrize("extra_level", ["p2", "p7"])
def test_the_extra_level_learns(extra_level) -> None:
    model = backbone(extra_level).train()
    model(torch.rand(2, 3, 64, 64))[extra_level].square().mean().backward()
    layers = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    own = {f"fpn_output{extra_level[1]}.weight"} | (
        {"fpn_upsample2.weight", "fpn_lateral3.weight"} if extra_level == "p2" else set()
    )
    assert own <= set(layers) and any(name.startswith("bottom_up.") for name in layers)


def test_other_levels_are_refused() -> None:
    with pytest.raises(ConfigError, match="EXTRA_LEVEL must be p2 or p7"):
        backbone("p8")
    with pytest.raises(ConfigError, match="the four stages"):
        LSNetFPN(LSNet(size="nano"), STAGES[:3], 16, extra_level="p7")


@pytest.mark.parametrize("pair", [("NORM", "BN"), ("FUSE_TYPE", "avg")])
def test_options_that_the_published_pyramid_lacks_are_refused(pair: tuple[str, str]) -> None:
    opts = ["MODEL.LSNET.SIZE", "nano", f"MODEL.FPN.{pair[0]}", pair[1]]
    with pytest.raises(ConfigError, match=r"FPN\.NORM must be empty and FUSE_TYPE sum"):
        build_backbone(load_config(CONFIGS / "coco" / "Base-LSNet.yaml", opts))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_published_recipes(path: Path) -> None:
    cfg = load_config(path)
    model = cfg.MODEL
    kind = path.stem.partition("_lsnet_")[0]
    letter = path.stem.partition("_lsnet_")[2][0]
    assert model.LSNET.SIZE == {"t": "tiny", "s": "small", "b": "base"}[letter]
    assert model.LSNET.EXTRA_LEVEL == ("p2" if kind == "mask_rcnn" else "p7")
    assert model.MASK_ON == (kind == "mask_rcnn")
    if kind == "semantic_fpn":
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (40000, 32)
    else:
        assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.IMS_PER_BATCH) == (12 * 7330, 16)
    assert cfg.SOLVER.OPTIMIZER == "ADAMW" and len(RECIPES) == 9


@pytest.mark.parametrize("path", RECIPES[::3], ids=lambda path: path.stem)
def test_recipes_build_and_detect(path: Path) -> None:
    """With the nano size and narrow maps; each kind of detector once."""
    opts = ["MODEL.DEVICE", "cpu", "MODEL.LSNET.SIZE", "nano", "MODEL.FPN.OUT_CHANNELS", "16",
            "MODEL.SEM_SEG_HEAD.NORM", "GN", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"]  # fmt: skip
    cfg = load_config(path, opts)
    levels = list(build_backbone(cfg).output_shape())
    model = build_model(cfg).eval()
    with torch.no_grad():
        output = model([{"image": torch.rand(3, 64, 96) * 255, "height": 70, "width": 100}])[0]
    found = output.get("instances", output.get("sem_seg"))
    assert levels[0] == ("p2" if cfg.MODEL.MASK_ON else "p3")
    assert (found.shape[1:] if "sem_seg" in output else found.image_size) == (70, 100)
