"""Numbers recorded from the original backbones: scores, kept windows, outputs, and the key schema.

Weights and input are drawn per original key; float32 deviates from float64 by 3e-6 (attention),
8e-6 (conv) and 1.2e-4 (ls) in the recorded runs.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from golden_data import load_golden

from sparsenet.modeling.backbone import FaithfulSparseNet
from sparsenet.modeling.backbone.sparsenet_faithful import SIZES
from sparsenet.modeling.key_conversion import convert_state

pytestmark = pytest.mark.golden

FILES = {
    "attention": ("sparseformer_t.npz", 1e-4),
    "conv": ("sparsenet_conv.npz", 1e-4),
    "ls": ("sparsenet_ls.npz", 5e-4),
}


@dataclass
class _Recorded:
    """A net with the recipe's weights, its outputs, and what the original gave."""

    local_module: str
    net: FaithfulSparseNet
    features: dict[str, torch.Tensor]
    golden: np.lib.npyio.NpzFile


def _random(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()))


def _weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    random, count = _random(key), int(np.prod(shape))
    if key.endswith("running_var"):
        values = random.uniform(0.5, 1.5, count)
    elif key.endswith((".bias", "running_mean")):
        values = random.standard_normal(count) * 0.1
    elif key.endswith("relative_position_bias_table"):
        values = random.standard_normal(count) * 0.5
    elif len(shape) == 1:
        values = random.uniform(0.5, 1.5, count) * (0.3 if key.endswith("bn2.weight") else 1.0)
    else:
        values = random.standard_normal(count) / np.sqrt(np.prod(shape[1:]))
    return values.reshape(shape)


def _original_state(golden: np.lib.npyio.NpzFile) -> dict[str, torch.Tensor]:
    """The original state dict in full; what the recipe leaves alone is zeros."""
    state = {}
    for key, text in zip(golden["keys"].tolist(), golden["shapes"].tolist()):
        shape = tuple(int(side) for side in text.split("x")) if text else ()
        is_left = key.endswith(("num_batches_tracked", "relative_position_index"))
        values = np.zeros(shape, np.int64) if is_left else _weight(key, shape)
        state[key] = torch.as_tensor(values, dtype=torch.int64 if is_left else torch.float32)
    return state


@pytest.fixture(scope="module", params=FILES)
def recorded(request) -> _Recorded:
    golden = load_golden(FILES[request.param][0])
    keep = tuple(golden["keep"].tolist())
    size = SIZES[request.param]["tiny"]
    net = FaithfulSparseNet(local_module=request.param, size=size, keep_ratio=keep)
    converted = convert_state(_original_state(golden), "sparseformer")
    assert not converted.unused
    net.load_state_dict(converted.state, strict=True)
    shape = (1, 3, *golden["input_hw"].tolist())
    images = _random("sparseformer/input").standard_normal(shape)
    with torch.no_grad():
        features = net.eval()(torch.as_tensor(images, dtype=torch.float32))
    return _Recorded(request.param, net, features, golden)


def test_number_of_parameters(recorded):
    assert sum(p.numel() for p in recorded.net.parameters()) == recorded.golden["n_params"]


def test_scores_and_kept_windows(recorded):
    for i, selection in enumerate(recorded.net.unsupervised_selections):
        scores = selection.logits.softmax(dim=1)[0].numpy()
        np.testing.assert_allclose(scores, recorded.golden[f"stage{i}_scores"], atol=1e-5)
        kept = selection.kept[0].nonzero().squeeze(1).tolist()
        assert kept == sorted(recorded.golden[f"stage{i}_topk"].tolist())


def test_outputs(recorded):
    golden, tolerance = recorded.golden, FILES[recorded.local_module][1]
    for i, feature in enumerate(recorded.features.values()):
        assert list(feature.shape) == golden[f"out{i}_shape"].tolist()
        values = feature.contiguous().flatten()
        sample = values[:: int(golden[f"out{i}_stride"])].numpy()
        np.testing.assert_allclose(sample, golden[f"out{i}_sample"], atol=tolerance, rtol=tolerance)
        summary = [values.mean(), values.std(correction=0), values.abs().max()]
        expected = [golden[f"out{i}_{name}"] for name in ("mean", "std", "absmax")]
        np.testing.assert_allclose(summary, expected, atol=tolerance, rtol=tolerance)
