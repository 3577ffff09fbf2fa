import io

import numpy as np
import pytest
import torch

timm = pytest.importorskip("timm", reason="the classification form lives in timm's registry")

from sparsenet.modeling.backbone.lsnet_classifier import LSNetClassifier  # noqa: E402


def _nano(**options) -> LSNetClassifier:
    torch.manual_seed(0)
    return LSNetClassifier("nano", **{"num_classes": 5, **options}).eval()


@pytest.mark.parametrize(
    "name, expected",
    [
        ("t", 11_409_832),
        ("s", 16_146_304),
        ("b", 23_313_608),
        ("t_distill", 11_795_600),
        ("s_distill", 16_596_200),
        ("b_distill", 23_827_632),
        ("l", 50_756_148),
        ("xl", 102_029_272),
        ("xl_448", 102_031_252),
        ("xl_artist_448", 102_031_252),
    ],
)
def test_timm_knows_the_published_sizes(name, expected):
    with torch.device("meta"):
        model = timm.create_model(f"lsnet_{name}")
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.default_cfg["input_size"] == ((3, 448, 448) if "448" in name else (3, 224, 224))
    for head in (model.default_cfg["classifier"],) if "dist" not in name else ("head_dist.l",):
        assert model.get_submodule(head).out_features == 1000


def test_every_name_is_unique_in_timm_and_belongs_to_this_project():
    names = timm.list_models("lsnet*")
    assert len(names) == 16
    for name in names:
        assert timm.models.model_entrypoint(name).__module__.endswith("lsnet_classifier")


def test_features_only_has_the_chosen_stages():
    model = timm.create_model("lsnet_t", features_only=True, out_indices=(0, 2)).eval()
    assert model.feature_info.channels() == [64, 256]
    assert model.feature_info.reduction() == [8, 32]
    with torch.no_grad():
        shapes = [f.shape for f in model(torch.randn(1, 3, 33, 50))]
    assert shapes == [(1, 64, 5, 7), (1, 256, 2, 2)]
    assert sum(p.numel() for p in model.parameters()) < 3_000_000  # the last stage is gone


@pytest.mark.parametrize("size", [(64, 64), (200, 70), (5, 7), (129, 513)])
def test_any_input_size_and_batch(size):
    model, images = _nano(), torch.randn(3, 3, *size)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert together.shape == (3, 5)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_other_channels_and_the_side_of_the_stored_biases():
    model = timm.create_model("lsnet_n", in_chans=5, img_size=448, num_classes=3).eval()
    assert model.blocks4[3].mixer.m.attention_biases.shape == (4, 49)
    assert model(torch.randn(1, 5, 64, 64)).shape == (1, 3)


def test_head_can_be_replaced_and_removed():
    model, images = _nano(), torch.randn(2, 3, 32, 32)
    features = model.forward_features(images)
    assert features.shape == (2, 128, 1, 1)
    torch.testing.assert_close(model.forward_head(features), model(images))
    model.reset_classifier(9)
    assert model(images).shape == (2, 9) and model.get_classifier().l.out_features == 9
    model.reset_classifier(0)
    torch.testing.assert_close(model(images), model.forward_head(features, pre_logits=True))


def test_distilled_model_returns_both_heads_in_distilled_training_only():
    model, images = _nano(distillation=True), torch.randn(2, 3, 32, 32)
    heads = model.get_classifier()
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    mean = sum(head(features) for head in heads) / 2
    torch.testing.assert_close(model(images), mean)
    assert model.train()(images).shape == (2, 5)
    model.set_distilled_training()
    assert [logits.shape for logits in model(images)] == [(2, 5), (2, 5)]
    assert model.eval()(images).shape == (2, 5)


def test_projected_features_are_not_negative():
    model = _nano(feature_dim=20)
    features = model.forward_head(torch.randn(4, 128, 2, 2), pre_logits=True)
    assert features.shape == (4, 20) and model.num_features == 20 and features.min() == 0
    assert not hasattr(_nano(feature_dim=128).projection, "0")


def test_intermediates_are_the_stages():
    model, images = _nano(), torch.randn(1, 3, 128, 64)
    last, maps = model.forward_intermediates(images)
    assert [tuple(m.shape[1:]) for m in maps] == [
        (32, 16, 8), (64, 8, 4), (96, 4, 2), (128, 2, 1)
    ]  # fmt: skip
    torch.testing.assert_close(last, model.forward_features(images))
    (third,) = model.forward_intermediates(images, [2], intermediates_only=True)
    torch.testing.assert_close(third, maps[2])
    with pytest.raises(ValueError, match="must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_checkpointing_changes_no_gradient():
    images, grads = torch.randn(2, 3, 64, 64), []
    for is_enabled in (False, True):
        model = _nano().train()
        model.set_grad_checkpointing(is_enabled)
        model(images).square().sum().backward()
        grads.append({k: p.grad for k, p in model.named_parameters()})
    torch.testing.assert_close(*grads)


def test_position_biases_have_no_decay():
    names = _nano().no_weight_decay()
    assert len(names) == 1 and names.pop().endswith("blocks4.3.mixer.m.attention_biases")


def _batch_of(size: int) -> torch.Tensor:
    return torch.randn(size, 3, 96, 64, generator=torch.Generator().manual_seed(size))


def test_export_takes_any_batch():
    model = _nano().fuse()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (_batch_of(2),), dynamic_shapes=({0: batch},))
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert not any("sparsenet" in target for target in targets)
    torch.testing.assert_close(program.module()(_batch_of(5)), model(_batch_of(5)))


@pytest.mark.slow
@pytest.mark.parametrize("is_dynamo", [False, True])
@pytest.mark.parametrize("name", ["lsnet_n", "lsnet_t"])
def test_onnx_file_takes_any_batch(name, is_dynamo):
    pytest.importorskip("onnxscript", reason="needs onnxscript (test extra)")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime (test extra)")
    model = timm.create_model(name, num_classes=7).eval().fuse()
    file = io.BytesIO()
    names = {"input_names": ["images"], "output_names": ["logits"]}
    if is_dynamo:
        shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
        torch.onnx.export(model, (_batch_of(2),), dynamo=True, dynamic_shapes=shapes, **names).save(
            file
        )
    else:
        axes = {key: {0: "batch"} for key in ("images", "logits")}
        torch.onnx.export(
            model, (_batch_of(2),), file, dynamo=False, dynamic_axes=axes, opset_version=17, **names
        )
    session = runtime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": _batch_of(5).numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(_batch_of(5)).numpy(), atol=1e-5)
