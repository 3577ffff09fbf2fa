"""Translation of the unofficial port's config.yaml."""

import json
import re
from pathlib import Path

import pytest
import yaml

from sparsenet.config import load_config
from sparsenet.engine.port_config import BACKBONES, convert_port_config, translate
from sparsenet.errors import ConfigError

BASE = Path("configs/coco/sparsercnn.res50.128pro.640.ema.yaml").resolve()
PORT = """
model_name: sparse_rcnn
data:
  train_annotation_path: /data/annotations/train.json
  val_annotation_path: /data/annotations/val.json
  train_img_root: /data/train
  val_img_root: /data/val
  max_thresh: 512
  use_crowd: False
  batch_size: 4
  num_workers: 2
  debug: False
  remove_blank: Ture
model:
  num_cls: 20
  backbone: resnet50
  pretrained: True
  alpha: 0.25
  gamma: 2.0
  iou_type: ciou
  iou_weights: 2.0
  iou_cost: 1
  cls_weights: 2
  cls_cost: 3.0
  l1_weights: 5.0
  l1_cost: 1.0
  num_proposals: 64
optim:
  optimizer: AdamW
  lr: 0.00005
  milestones: [27, 33]
  warm_up_iter: 500
  weight_decay: 0.0001
  epochs: 36
  sync_bn: True
  amp: True
  alpha: 0.1
  warm_up_factor: 0.01
val:
  interval: 2
  weight_path: weights
gpus: 0,1,2,3
"""


def convert(tmp_path: Path, text: str = PORT, **options):
    (tmp_path / "config.yaml").write_text(text)
    target = tmp_path / "ours.yaml"
    notes = convert_port_config(tmp_path / "config.yaml", target, BASE, **options)
    return load_config(target), notes


def test_every_key_finds_its_place(tmp_path: Path) -> None:
    cfg, notes = convert(tmp_path, num_images=117266)
    node = cfg.MODEL.SparseRCNN
    assert (node.NUM_CLASSES, node.NUM_PROPOSALS, node.BOX_LOSS) == (20, 64, "ciou")
    assert (node.CLASS_WEIGHT, node.L1_WEIGHT, node.GIOU_WEIGHT) == (2.0, 5.0, 2.0)
    assert tuple(node.COSTS) == (3.0, 1.0, 1.0) and node.BOX_COST == "giou"
    assert cfg.INPUT.LETTERBOX == cfg.INPUT.MAX_SIZE_TEST == 512
    assert cfg.INPUT.AUG.MOSAIC.PROB == 0.8 and cfg.SOLVER.EMA.ENABLED  # of the base
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and cfg.DATALOADER.NUM_WORKERS == 2
    assert cfg.DATASETS.COCO_FILES[0] == [
        "port_train", "/data/annotations/train.json", "/data/train",
    ]  # fmt: skip
    assert tuple(cfg.DATASETS.TRAIN) == ("port_train",)
    assert tuple(cfg.DATASETS.TEST) == ("port_val",)
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WARMUP_ITERS) == (16, 5e-5, 500)
    assert (solver.MAX_ITER, tuple(solver.STEPS)) == (36 * 7330, (27 * 7330, 33 * 7330))
    assert solver.AMP.ENABLED and solver.OPTIMIZER == "ADAMW" and cfg.TEST.EVAL_PERIOD == 14660
    assert cfg.OUTPUT_DIR == "weights/sparse_rcnn"
    assert sorted(note.split(":")[0] for note in notes) == [
        "gpus", "model.alpha", "model.gamma", "optim.sync_bn",
    ]  # fmt: skip
    assert "--num-gpus 4" in " ".join(notes)


def test_images_are_counted_in_the_training_json(tmp_path: Path) -> None:
    content = {
        "images": [{"id": i} for i in range(50)],
        "annotations": [{"image_id": i // 2} for i in range(66)],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    text = PORT.replace("/data/annotations/train.json", str(tmp_path / "train.json"))
    cfg, _ = convert(tmp_path, text)
    assert cfg.SOLVER.MAX_ITER == 36 * 3  # 33 images with boxes in batches of 16
    cfg, _ = convert(tmp_path, text.replace("remove_blank: Ture", "remove_blank: False"))
    assert cfg.SOLVER.MAX_ITER == 36 * 4


def test_what_does_not_load_leaves_the_target(tmp_path: Path) -> None:
    convert(tmp_path, num_images=16)
    before = (tmp_path / "ours.yaml").read_text()
    with pytest.raises(ConfigError, match="absent"):
        convert_port_config(
            tmp_path / "config.yaml", tmp_path / "ours.yaml", BASE.with_name("absent"), num_images=9
        )
    assert (tmp_path / "ours.yaml").read_text() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_unknown_keys_are_told(tmp_path: Path) -> None:
    text = PORT + "extra: 1\n" + "debugging:\n  level: 3\n"
    _, notes = convert(tmp_path, text, num_images=10)
    told = [note for note in notes if "not known" in note]
    assert told == [f"{key}: not known, not translated" for key in ("extra", "debugging.level")]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_of_the_port_has_a_resnet(name: str) -> None:
    values, notes = translate({"model.backbone": name})
    depth = int(re.search(r"resn\w+?(\d+)", name)[1])
    assert values["MODEL.RESNETS.DEPTH"] == depth
    assert ("MODEL.WEIGHTS" in values) == (name != "resnet50") == bool(notes)
    assert ("MODEL.RESNETS.RES2_OUT_CHANNELS" in values) == (depth < 50)


def test_without_pretrained_weights_there_are_none() -> None:
    assert translate({"model.pretrained": False})[0]["MODEL.WEIGHTS"] == ""


def test_adam_becomes_adamw_and_says_so() -> None:
    values, notes = translate({"optim.optimizer": "Adam"})
    assert values["SOLVER.OPTIMIZER"] == "ADAMW" and "in place of Adam" in notes[0]


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ({"model.backbone": "vgg16"}, "model.backbone must be one of resnet18"),
        ({"optim.optimizer": "LARS"}, "optim.optimizer must be Adam, AdamW or SGD"),
        ({"data.max_thresh": "large"}, "data.max_thresh must be a int, got 'large'"),
        ({"optim.milestones": "27, 33"}, "optim.milestones must be whole numbers above 0"),
        ({"data.batch_size": 0}, "data.batch_size must be whole numbers above 0, got 0"),
        ({"optim.epochs": 3}, "reading . failed: .* give the number with --num-images"),
    ],
)
def test_values_that_cannot_be_ours(port: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(port, num_images=None if "optim.epochs" in port else 16)


def test_files_that_are_none_of_the_port(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a YAML file"):
        convert_port_config(tmp_path / "absent.yaml", tmp_path / "b.yaml", BASE)
    for text in ("", "[1, 2]", yaml.safe_dump({"MODEL": {"WEIGHTS": ""}})):
        with pytest.raises(ConfigError, match="a section model, it has none"):
            convert(tmp_path, text)
    with pytest.raises(ConfigError, match="must be a YAML file"):
        convert(tmp_path, "a: [1")
