import pytest
import torch

pytest.importorskip("timm", reason="classifiers live in timm's registry")

from sparsenet.errors import CheckpointError, ConfigError
from sparsenet.modeling.timm_models import (
    create_classifier,
    import_timm,
    load_classifier_state,
)


def test_models_of_this_project_are_registered():
    timm = import_timm()
    assert timm.is_model("lsnet_t") and timm.is_model("sparx_mamba_t")
    model = create_classifier("lsnet_n", 7, {"feature_dim": 12})
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7) and model.num_features == 12


def test_unknown_models_and_options_are_named():
    with pytest.raises(ConfigError, match=r"got 'lsnet_tt'. Near: .*lsnet_t"):
        create_classifier("lsnet_tt", 2)
    with pytest.raises(ConfigError, match=r"lsnet_n must take \{'depth': 3\}"):
        create_classifier("lsnet_n", 2, {"depth": 3})


def test_published_weights_out_of_reach_are_told(monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"weights of lsnet_s must be in reach .* the file"):
        create_classifier("lsnet_s", 2, pretrained=True)
    with pytest.raises(ConfigError, match="weights of lsnet_n, it has none"):
        create_classifier("lsnet_n", 2, pretrained=True)


def test_a_head_of_other_classes_starts_anew_only_on_request():
    source, model = create_classifier("lsnet_n", 5), create_classifier("lsnet_n", 3)
    head = model.head.l.weight.clone()
    load_classifier_state(model, source.state_dict(), source="file", new_head=True)
    assert torch.equal(model.head.l.weight, head)
    assert torch.equal(model.patch_embed[0].c.weight, source.patch_embed[0].c.weight)
    with pytest.raises(CheckpointError, match=r"file must hold the weights of this model"):
        load_classifier_state(model, source.state_dict(), source="file")
    state = {k: v for k, v in source.state_dict().items() if "blocks3" not in k}
    with pytest.raises(CheckpointError, match="missing"):
        load_classifier_state(model, state, source="file", new_head=True)
