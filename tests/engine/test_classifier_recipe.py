"""From configuration to parts: what each key does."""

import argparse
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_photos import write_photos
from torch import nn

pytest.importorskip("timm", reason="classifiers live in timm's registry")

from sparsenet.config import load_config
from sparsenet.data.class_mapping import read_class_mapping
from sparsenet.engine import classifier_recipe as recipe
from sparsenet.engine.classifier import ClassifierTrainer
from sparsenet.engine.classifier_evaluation import evaluate_trained, load_trained
from sparsenet.errors import CheckpointError, ConfigError, DatasetError, SparseNetError
from sparsenet.modeling.backbone.sparx_mamba_classifier import SparXMambaClassifier

CONFIGS = Path(__file__).parents[2] / "configs" / "imagenet"
NAMES = ["blue", "green", "red"]


def _config(*opts: object, file: str = "lsnet_n_96_120e_small"):
    small = ["CLASSIFIER.INPUT_SIZE", "32", "SOLVER.IMS_PER_BATCH", "6", "MODEL.DEVICE", "cpu",
             "CLASSIFIER.EPOCHS", "2"]  # fmt: skip
    return load_config(CONFIGS / f"{file}.yaml", [*small, *map(str, opts)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A configuration with its weights after two epochs."""
    root = tmp_path_factory.mktemp("photos")
    write_photos(root / "train", 8)
    write_photos(root / "val", 3)
    cfg = _config("CLASSIFIER.DATA_PATH", root, "OUTPUT_DIR", root / "output")
    best = recipe.train_classifier(cfg, quiet=True)
    cfg.MODEL.WEIGHTS = str(root / "output" / "model_best.pth")
    return cfg, best


def test_training_leaves_what_evaluation_needs(trained):
    cfg, best = trained
    assert read_class_mapping(Path(cfg.OUTPUT_DIR) / "class_mapping.csv") == tuple(NAMES)
    blank = load_config(None, ["MODEL.WEIGHTS", cfg.MODEL.WEIGHTS, "MODEL.DEVICE", "cpu"])
    blank.CLASSIFIER.DATA_PATH = cfg.CLASSIFIER.DATA_PATH
    blank.DATALOADER.NUM_WORKERS = 0
    model = load_trained(blank)  # the checkpoint tells the rest
    assert model.class_names == tuple(NAMES)
    assert (model.cfg.CLASSIFIER.MODEL, model.cfg.CLASSIFIER.INPUT_SIZE) == ("lsnet_n", 32)
    sketch = Path(cfg.CLASSIFIER.DATA_PATH) / "val"
    results = evaluate_trained(model, {"sketch": sketch}, quiet=True)
    assert results["val"] == results["sketch"]
    assert results["val"]["top1"] == max(best["val_top1"], best["ema_top1"])


def test_sparx_mamba_takes_a_step_of_its_recipe(trained, tmp_path):
    cfg = _config(  # 64 px: decays have no gradient on a last map of one cell
        "CLASSIFIER.DATA_PATH", trained[0].CLASSIFIER.DATA_PATH, "OUTPUT_DIR", tmp_path,
        "CLASSIFIER.EPOCHS", 1, "SOLVER.IMS_PER_BATCH", 24, "SOLVER.AMP.ENABLED", False,
        "DATALOADER.NUM_WORKERS", 0, "CLASSIFIER.INPUT_SIZE", 64, file="sparx_mamba_t_224_300e",
    )  # fmt: skip
    torch.manual_seed(0)
    model = SparXMambaClassifier("nano", num_classes=3, drop_path_rate=0.2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train, val = recipe.build_loaders(cfg)
    optimizer = recipe.build_optimizer(cfg, model, 24)
    spared = {id(p) for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    trainer = ClassifierTrainer(
        model, optimizer, recipe.build_scheduler(cfg, optimizer, len(train)),
        recipe.build_loss(cfg, model, NAMES), recipe.loop_options(cfg, quiet=True),
        mixup=recipe.build_mixup(cfg, 3), facts={},
    )  # fmt: skip
    row = trainer.fit(train, val)
    assert 0.5 < row["train_loss"] < 3 and "ema_top1" in row
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert (id(parameter) in spared) == (parameter.dim() == 1 or "A_logs" in name), name


def test_evaluation_refuses_other_classes_and_missing_weights(trained, tmp_path):
    cfg = trained[0].clone()
    cfg.CLASSIFIER.DATA_PATH = str(tmp_path)
    write_photos(tmp_path / "val", 1, names=("blue", "red"))
    with pytest.raises(DatasetError, match="must have the 3 classes of the training, it has 2"):
        evaluate_trained(load_trained(cfg), {})
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(CheckpointError, match=r"set MODEL\.WEIGHTS to a file"):
        load_trained(cfg)


def test_a_new_training_in_an_old_folder_warns_and_a_refused_one_writes_nothing(
    trained, tmp_path, caplog
):
    cfg = trained[0].clone()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(tmp_path), ""
    with pytest.raises(CheckpointError, match="must be a file"):
        recipe.train_classifier(cfg, resume=tmp_path / "none.pth", quiet=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "checkpoint.pth").touch()
    cfg.CLASSIFIER.EPOCHS = 1
    recipe.train_classifier(cfg, quiet=True)
    assert "will be overwritten: it is not resumed" in caplog.text


def test_pickles_start_a_training_only_on_request(trained, tmp_path):
    cfg = trained[0].clone()
    content = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    cfg.MODEL.WEIGHTS = str(tmp_path / "pickle.pth")
    torch.save({**content, "args": argparse.Namespace(lr=1)}, cfg.MODEL.WEIGHTS)
    cfg.OUTPUT_DIR, cfg.CLASSIFIER.EPOCHS = str(tmp_path / "output"), 1
    with pytest.raises(CheckpointError, match="--trust-checkpoint"):
        recipe.train_classifier(cfg, quiet=True)
    recipe.train_classifier(cfg, trust=True, quiet=True)
    assert (tmp_path / "output" / "model_best.pth").is_file()


def test_evaluation_batches_are_bounded(trained, tmp_path):
    cfg, sizes = trained[0].clone(), []
    cfg.SOLVER.IMS_PER_BATCH, cfg.CLASSIFIER.DATA_PATH = 2048, str(tmp_path)
    write_photos(tmp_path / "val", 87)
    model = load_trained(cfg)
    model.model.register_forward_pre_hook(lambda _, images: sizes.append(len(images[0])))
    evaluate_trained(model, {}, quiet=True)
    assert sizes == [256, 5]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("CLASSIFIER.SCHEDULE", "none", "SCHEDULE must be one of cosine, .* got 'none'"),
        ("CLASSIFIER.SCHEDULE", "plateau", "SCHEDULE must be one of"),
        ("MODEL.DEVICE", "gpu", "device that torch has here, .* got 'gpu'"),
        ("CLASSIFIER.MODEL", "resnet18.typo", "one of timm's registry, got 'resnet18.typo'. Near"),
        ("OUTPUT_DIR", __file__, "must go to a folder that can be written"),
    ],
)
def test_mistakes_are_errors_of_ours(trained, tmp_path, key, value, message):
    cfg = trained[0].clone()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(tmp_path), ""
    cfg.merge_from_list([key, value])
    with pytest.raises(SparseNetError, match=message):
        recipe.train_classifier(cfg, quiet=True)


def test_weights_start_a_training_with_other_classes(trained):
    cfg = trained[0]
    state = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"]
    model = recipe.build_model(cfg, ["one", "two"])
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 2)
    assert torch.equal(model.blocks2[0].c.weight, state["blocks2.0.c.weight"])


def test_rate_scales_with_the_batch_and_decay_spares_vectors():
    cfg = _config(file="lsnet_t_224_300e")
    model = recipe.create_classifier("lsnet_n", 3)
    optimizer = recipe.build_optimizer(cfg, model, batch_size=2048)
    assert {group["lr"] for group in optimizer.param_groups} == {0.004}
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 0.025}
    for name, parameter in model.named_parameters():
        is_spared = parameter.dim() == 1 or name.endswith(("bias", "attention_biases"))
        assert (id(parameter) in decayed) != is_spared, name


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*_300e*.yaml")), ids=lambda p: p.stem)
def test_published_recipes(path):
    cfg = load_config(path)
    node, is_sparx = cfg.CLASSIFIER, "sparx" in path.stem
    base = "sparx_mamba_" if is_sparx else "lsnet_"
    letter = path.stem[len(base)]
    assert node.MODEL == base + letter + ("_distill" if "distill" in path.stem else "")
    assert (node.EPOCHS, node.MIN_LR, node.WARMUP_LR) == (300, 1e-5, 1e-6)
    aug = node.AUG
    assert (aug.MIXUP, aug.CUTMIX, aug.ERASE_PROB, node.SMOOTHING) == (0.8, 1.0, 0.25, 0.1)
    rate = cfg.SOLVER.BASE_LR * cfg.SOLVER.IMS_PER_BATCH / node.LR_BATCH
    assert rate == pytest.approx(0.004)
    if is_sparx:
        assert (node.CLIP, node.CLIP_MODE, node.WARMUP_EPOCHS, aug.REPEATS) == (5.0, "norm", 20, 1)
        assert node.MODEL_OPTIONS.drop_path_rate == {"t": 0.2, "s": 0.3, "b": 0.5}[letter]
        assert cfg.SOLVER.EMA.DECAY == 0.9998 and cfg.SOLVER.WEIGHT_DECAY == 0.05
    else:
        assert (node.CLIP, node.CLIP_MODE, node.WARMUP_EPOCHS, aug.REPEATS) == (0.02, "agc", 5, 3)
        assert cfg.SOLVER.WEIGHT_DECAY == (0.05 if letter == "b" else 0.025)
        assert (node.DISTILLATION.TYPE == "hard") == ("distill" in path.stem)


def test_transforms():
    photo = Image.effect_noise((120, 90), 40).convert("RGB")
    cfg = _config(file="lsnet_t_224_300e")
    torch.manual_seed(0)
    train, evaluate = (recipe.build_transform(cfg, is_training=t) for t in (True, False))
    assert train(photo).shape == evaluate(photo).shape == (3, 32, 32)
    assert not torch.equal(train(photo), train(photo))
    assert torch.equal(evaluate(photo), evaluate(photo))
    text = str(train.transforms)
    assert all(word in text for word in ("RandAugment", "RandomErasing", "bicubic"))
    cfg.CLASSIFIER.CROP_PCT = 1.0
    whole = recipe.build_transform(cfg)(Image.new("RGB", (32, 32), (255, 0, 0)))
    assert whole[0].unique().item() == pytest.approx((1 - 0.485) / 0.229, abs=1e-4)


def test_mixed_labels_are_smoothed_and_sum_to_one():
    assert recipe.build_mixup(_config("CLASSIFIER.AUG.MIXUP", 0.0), 3) is None
    mixup = recipe.build_mixup(_config(file="lsnet_t_224_300e"), 3)
    _, targets = mixup(torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert targets.min().item() == pytest.approx(0.1 / 3)


def test_smoothing_without_mixing():
    cfg = _config("CLASSIFIER.AUG.MIXUP", 0.0)
    loss = recipe.build_loss(cfg, nn.Identity(), NAMES)
    logits, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    expected = nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(loss(torch.empty(0), logits, targets), expected)


def test_any_model_of_timm_can_teach(tmp_path):
    teacher = recipe.create_classifier("lsnet_n", 3)
    teacher.blocks1 = nn.Sequential()
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    cfg = _config(
        "CLASSIFIER.DISTILLATION.TYPE", "hard", "CLASSIFIER.DISTILLATION.TEACHER", "lsnet_n",
        "CLASSIFIER.DISTILLATION.TEACHER_WEIGHTS", tmp_path / "teacher.pth",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="needs a model with two heads, lsnet_n has one"):
        recipe.build_loss(cfg, recipe.create_classifier("lsnet_n", 3), NAMES)
    student = recipe.create_classifier("lsnet_n", 3, {"distillation": True}).train()
    loss = recipe.build_loss(cfg, student, NAMES)
    images = torch.randn(4, 3, 32, 32)
    targets = nn.functional.one_hot(torch.tensor([0, 1, 2, 0]), 3).float()
    loss(images, student(images), targets).backward()
    assert student.head_dist.l.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in loss.teacher.parameters())
    expected = teacher.eval()(images).argmax(1)
    assert torch.equal(loss.teacher(images).argmax(1), expected)


def test_a_published_teacher_of_other_classes_is_refused():
    cfg = _config("CLASSIFIER.DISTILLATION.TYPE", "hard")
    assert cfg.CLASSIFIER.DISTILLATION.TEACHER == "regnety_160.deit_in1k"
    student = recipe.create_classifier("lsnet_n", 3, {"distillation": True})
    with pytest.raises(ConfigError, match=r"the 3 classes .*\.deit_in1k knows 1000.*_WEIGHTS"):
        recipe.build_loss(cfg, student, NAMES)


def test_images_are_normalised_anew_for_a_teacher():
    models = []
    for mean, std in ((0.5, 0.25), (0.4, 0.1)):
        model = nn.Identity()
        model.default_cfg = {"mean": (mean,) * 3, "std": (std,) * 3}
        models.append(model)
    pixels = torch.rand(2, 3, 4, 4)
    renormalise = recipe.Renormalise(*models)
    torch.testing.assert_close(renormalise((pixels - 0.5) / 0.25), (pixels - 0.4) / 0.1)
