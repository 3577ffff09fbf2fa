"""Embedders from checkpoints: what they compute, and which weights they refuse."""

import argparse

import pytest
import timm
import torch
from artist_data import SIDE, STYLES, save_checkpoint
from PIL import Image

from sparsenet.embedding.model import Embedder, load_embedder
from sparsenet.errors import CheckpointError, ConfigError
from sparsenet.modeling.timm_models import create_classifier


@pytest.fixture
def images():
    return torch.randn(3, 3, 192, 192, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("options", [{}, {"feature_dim": 24}, {"img_size": 64}])
def test_same_numbers_as_the_trained_model(tmp_path, images, options):
    path = save_checkpoint(tmp_path / "a.pth", **options)
    state = torch.load(path, weights_only=True)
    model = create_classifier("lsnet_n", len(STYLES), options).eval()
    model.load_state_dict(state["model"])
    embedder = load_embedder(None, path, class_names=STYLES)
    embeddings, probabilities = embedder(images)
    assert embeddings.shape == (3, model.num_features)
    torch.testing.assert_close(probabilities, model(images).softmax(1))
    headless = load_embedder("lsnet_n", path)
    torch.testing.assert_close(headless(images)[0], embeddings)
    assert headless(images)[1] is None


@pytest.mark.parametrize("options", [{}, {"feature_dim": 24}, {"img_size": 448}])
def test_files_of_others_hold_only_weights(tmp_path, options):
    state = torch.load(save_checkpoint(tmp_path / "a.pth", **options), weights_only=True)["model"]
    torch.save(state, tmp_path / "bare.pth")
    # Shapes tell the projection and the grid of position biases: nothing is resized.
    loaded = load_embedder("lsnet_n", tmp_path / "bare.pth", class_names=STYLES).model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_other_models_of_the_registry(tmp_path, images, name):
    model = timm.create_model(name, num_classes=2).eval()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    with_head = load_embedder(name, tmp_path / "a.pth", class_names=("a", "b"))
    torch.testing.assert_close(with_head(images)[1], model(images).softmax(1))
    without = load_embedder(name, tmp_path / "a.pth", input_size=96)
    torch.testing.assert_close(without(images)[0], with_head(images)[0])
    assert without.transform(Image.new("RGB", (300, 200))).shape == (3, 96, 96)


def test_input_as_in_training(tmp_path):
    embedder = load_embedder(None, save_checkpoint(tmp_path / "a.pth"))
    assert embedder.transform(Image.new("RGB", (300, 200))).shape == (3, SIDE, SIDE)


def test_refusals(tmp_path):
    path = save_checkpoint(tmp_path / "a.pth")
    state = torch.load(path, weights_only=True)["model"]
    with pytest.raises(CheckpointError, match="wrong shape"):
        load_embedder(None, path, class_names=("a", "b"))
    with pytest.raises(ConfigError, match="lsnet_q"):
        load_embedder("lsnet_q", path)
    with pytest.raises(CheckpointError):
        load_embedder("resnet10t", path)
    with pytest.raises(ConfigError, match="must be auto, cpu or cuda"):
        load_embedder(None, path, device="abacus")
    torch.save(state, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match="pass --model"):
        load_embedder(None, tmp_path / "bare.pth")
    half = {key: value for key, value in state.items() if not key.startswith("blocks4")}
    torch.save(half, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match="missing"):
        load_embedder("lsnet_n", tmp_path / "half.pth")


def test_names_in_another_order_than_in_training_are_told(tmp_path, caplog):
    path = save_checkpoint(tmp_path / "a.pth")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "class_names": list(STYLES)}, path)
    load_embedder(None, path, class_names=STYLES)
    load_embedder(None, path)
    assert not caplog.records
    load_embedder(None, path, class_names=STYLES[::-1])
    assert "not those that" in caplog.text and "red_blocks, green_stripes" in caplog.text


def test_pickles_need_trust(tmp_path):
    path = save_checkpoint(tmp_path / "a.pth")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "args": argparse.Namespace(lr=1)}, path)
    with pytest.raises(CheckpointError, match="--trust-checkpoint"):
        load_embedder(None, path)
    assert isinstance(load_embedder(None, path, trust=True), Embedder)
