"""The sparse backbone in inference (in place, in parts, in fewer bits) against training."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from sparsenet.modeling.backbone import SparseNet

LOCAL_MODULES = ["attention", "conv", "ls"]
MODES = {"ratio": (0.4, None), "all": (1.0, None), "threshold": (0.9, 0.5)}


def _net(local_module: str, mode: str = "ratio", **options) -> SparseNet:
    torch.manual_seed(0)
    keep, threshold = MODES[mode]
    return SparseNet(
        local_module=local_module,
        size="nano",
        keep_ratio=(keep,) * 4,
        keep_threshold=threshold,
        exploration=0.0,
        **options,
    ).eval()


def _images() -> torch.Tensor:
    images = torch.randn(2, 3, 96, 131)
    images[1, :, 60:] = 0  # filled up to the batch's size
    return images


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_inference_gives_what_training_gives(local_module, mode):
    net, images = _net(local_module, mode), _images()
    before, expected = images.clone(), net(images)
    kept = [selection.kept for selection in net.selections]
    forms = {
        "no_grad": (torch.no_grad, images),
        "inference_mode": (torch.inference_mode, images),
        "channels_last": (torch.no_grad, images.contiguous(memory_format=torch.channels_last)),
        "strided": (torch.no_grad, images.transpose(2, 3).contiguous().transpose(2, 3)),
        "requires_grad": (torch.no_grad, images.clone().requires_grad_()),
    }
    for name, (context, form) in forms.items():
        with context():
            found = net(form)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5, msg=name)
        assert all(torch.equal(s.kept, k) for s, k in zip(net.selections, kept)), name
        assert torch.equal(form, before), name
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        torch.testing.assert_close(net(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_a_stage_can_be_computed_twice_from_its_input(local_module):
    """Reentrant activation checkpointing: without gradients first, then again from the input."""
    stage, x = _net(local_module).stages[0], torch.randn(1, 24, 32, 32)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    checkpoint(lambda y: stage(y, None)[0], ours, use_reentrant=True).square().sum().backward()
    stage(theirs, None)[0].square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_bfloat16_keeps_the_same_windows(local_module):
    net = _net(local_module, window_size=4)
    images = F.interpolate(torch.randn(2, 3, 14, 20), (224, 320), mode="bicubic")
    with torch.no_grad():
        expected, kept = net(images), [s.kept for s in net.selections]
        with torch.autocast("cpu", torch.bfloat16):
            found = net(images)
    for ours, theirs in zip(net.selections, kept):
        assert ours.logits.dtype == torch.float32
        assert (ours.kept & theirs).sum() >= 0.9 * theirs.sum()
    for name, value in expected.items():
        difference = (found[name].float() - value).norm() / value.norm()
        assert difference < 0.2, (name, float(difference))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_no_images_give_empty_maps(local_module, mode):
    with torch.no_grad():
        assert _net(local_module, mode)(torch.zeros(0, 3, 64, 64))["stage3"].shape[0] == 0


@pytest.mark.parametrize("local_module", LOCAL_MODULES)
def test_a_trace_serves_other_images_of_its_size(local_module):
    net = _net(local_module, window_size=4)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    first, second = torch.randn(2, 1, 3, 64, 96)
    with torch.no_grad():
        traced = torch.jit.trace(lambda x: net(x)["stage2"], first, check_trace=False)
        torch.testing.assert_close(traced(second), net(second)["stage2"], atol=1e-4, rtol=1e-4)
