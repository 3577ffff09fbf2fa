import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import FPN

import sparsenet.modeling.backbone  # noqa: F401  (registers the builders)
from sparsenet.config import add_sparsenet_config
from sparsenet.errors import ConfigError
from sparsenet.modeling.neck import SparseFPN
from sparsenet.ops.windows import WindowGrid, spread_windows

LOCAL_MODULES = ["attention", "conv", "ls"]


def _neck(name: str, *, keep: float = 0.4, local_module: str = "conv", **fpn) -> FPN:
    cfg = get_cfg()
    add_sparsenet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_sparsenet_fpn_backbone"
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    for key, value in fpn.items():
        cfg.MODEL.FPN[key] = value
    options = {"NECK": name, "LOCAL_MODULE": local_module, "SIZE": "nano", "WINDOW_SIZE": 3}
    options |= {"KEEP_RATIO": (keep,) * 4, "EXPLORATION": 0.0}
    for key, value in options.items():
        cfg.MODEL.SPARSENET[key] = value
    torch.manual_seed(0)
    return build_backbone(cfg)


def _images() -> torch.Tensor:
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    images[1, :, 70:] = 0  # filled up to the batch's size
    return images


def _masked(neck: SparseFPN, images: torch.Tensor) -> list[torch.Tensor]:
    """Every convolution on whole maps; where a window is not kept, the coarser level instead."""
    features, merged, results = neck.bottom_up(images), None, []
    for lateral, output, name in zip(neck.lateral_convs, neck.output_convs, neck.in_features[::-1]):
        fine = lateral(features[name])
        if merged is None:
            merged, result = fine, output(fine)
        else:
            selection = neck.bottom_up.selections[int(name[-1])]
            grid = WindowGrid(tuple(fine.shape[2:]), 3)
            kept = selection.kept.view(-1, *selection.grid_size, 1)
            kept = spread_windows(kept, grid).permute(0, 3, 1, 2)  # (B, 1, h, w)
            above = F.interpolate(merged, scale_factor=2.0)
            both = (fine + above) / (2 if neck._fuse_type == "avg" else 1)
            merged = torch.where(kept, both, above)
            result = torch.where(kept, output(merged), F.interpolate(results[0], scale_factor=2.0))
        results.insert(0, result)
    return [*results, F.max_pool2d(results[-1], 1, 2)]


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_equals_whole_maps_with_a_mask(local_module, fuse_type):
    neck = _neck("sparse_fpn", local_module=local_module, FUSE_TYPE=fuse_type).double()
    images = _images().double()
    ours, expected = list(neck(images).values()), _masked(neck, images)
    torch.testing.assert_close(ours, expected)
    weights = [torch.randn_like(v) for v in ours]
    parameters = list(neck.parameters())
    ours = torch.autograd.grad(ours, parameters, weights)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, parameters, weights))


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_with_all_windows_it_is_the_fpn_and_weights_fit_both(local_module):
    sparse = _neck("sparse_fpn", keep=1.0, local_module=local_module).eval()
    dense = _neck("fpn", keep=1.0, local_module=local_module).eval()
    with torch.no_grad():
        for parameter in sparse.parameters():
            parameter.mul_(0.9)
    dense.load_state_dict(sparse.state_dict(), strict=True)
    with torch.no_grad():
        ours, theirs = sparse(_images()), dense(_images())
    assert list(ours) == list(theirs) == ["p2", "p3", "p4", "p5", "p6"]
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("training", [False, True])
def test_an_image_does_not_see_its_batch(training):
    neck = _neck("sparse_fpn").train(training)
    images = _images()
    with torch.no_grad():
        together = neck(images)
        for i in range(2):
            for key, feature in neck(images[i : i + 1]).items():
                torch.testing.assert_close(feature, together[key][i : i + 1], atol=1e-4, rtol=1e-4)


def test_every_parameter_gets_a_gradient_under_bfloat16():
    neck = _neck("sparse_fpn")
    with torch.autocast("cpu", torch.bfloat16):
        features = neck(_images())
        sum(f.float().square().mean() for f in features.values()).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


def test_levels_without_the_coarsest_stage():
    neck = _neck("sparse_fpn", IN_FEATURES=["stage0", "stage1"])
    assert list(neck(_images())) == ["p2", "p3"]


def test_a_norm_is_refused():
    with pytest.raises(ConfigError, match=r"NORM must be '' .*got 'GN'. Use NECK fpn"):
        _neck("sparse_fpn", NORM="GN")
