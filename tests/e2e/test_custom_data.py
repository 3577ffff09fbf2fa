"""A user's own folders: trained on YOLO labels, tested on VOC files, the best checkpoint found."""

import importlib.util
import json
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image, ImageDraw

from sparsenet.data import builtin

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "configs/sample/sparse_rcnn_sparsenet_conv_nano_fpn_sample.yaml")
SMALL = [
    "INPUT.TILE.ENABLED", "False", "TEST.TILE.ENABLED", "False", "SOLVER.IMS_PER_BATCH", "2",
    "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.WARMUP_ITERS", "1", "MODEL.SparseRCNN.NUM_PROPOSALS", "8",
]  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path):
    """Three images of bars with the same boxes as VOC files and as YOLO labels."""
    for name in ("images", "labels", "Annotations"):
        (tmp_path / name).mkdir()
    for i in range(3):
        x, y = 10 + 8 * i, 20
        image = Image.new("RGB", (96, 64), (60, 60, 60))
        ImageDraw.Draw(image).rectangle((x, y, x + 19, y + 29), fill=(230, 230, 230))
        image.save(tmp_path / f"images/{i}.png")
        shares = (x + 10) / 96, (y + 15) / 64, 20 / 96, 30 / 64
        (tmp_path / f"labels/{i}.txt").write_text("1 " + " ".join(map(str, shares)))
        corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + 20, "ymax": y + 30}
        box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
        (tmp_path / f"Annotations/{i}.xml").write_text(
            f"<annotation><object><name>bar</name><bndbox>{box}</bndbox></object></annotation>"
        )
    yield tmp_path
    for name in ("mine_yolo", "mine_voc"):
        builtin._registered.pop(name, None)
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def train_net(folder: Path, *arguments: str) -> int:
    path = ROOT / "projects/SparseNet/train_net.py"
    spec = importlib.util.spec_from_file_location("train_net", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = [word for word in arguments if word.startswith("--")]
    after = [word for word in arguments if not word.startswith("--")]
    return module.run([
        "--num-gpus", "0", "--config-file", CONFIG, *before,
        "DATASETS.YOLO_FOLDERS", f"[['mine_yolo', '{folder}', '']]",
        "DATASETS.VOC_FOLDERS", f"[['mine_voc', '{folder}', '']]",
        "DATASETS.CLASS_NAMES", "('dot', 'bar')", "DATASETS.TRAIN", "('mine_yolo',)",
        "DATASETS.TEST", "('mine_voc',)", "OUTPUT_DIR", str(folder / "out"), *SMALL, *after,
    ])  # fmt: skip


def test_both_formats_say_the_same(folders: Path) -> None:
    names = ("dot", "bar")
    voc = builtin.read_voc(folders, class_names=names)
    yolo = builtin.read_yolo(folders, class_names=names)
    for a, b in zip(voc.dicts, yolo.dicts):
        (one,), (other,) = a.pop("annotations"), b.pop("annotations")
        assert a == b and one["category_id"] == other["category_id"] == 1
        assert one["bbox"] == pytest.approx(other["bbox"])


def test_training_and_the_best_of_its_checkpoints(folders: Path) -> None:
    solver = ["SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "TEST.EVAL_PERIOD", "0"]
    assert train_net(folders, *solver) == 0
    weights = ["MODEL.WEIGHTS", str(folders / "out")]
    assert train_net(folders, "--eval-only", *weights, "TEST.MISS_RATE", "True") == 0
    content = json.loads((folders / "out/checkpoints/checkpoints.json").read_text())
    names = ["model_0000000.pth", "model_0000001.pth", "model_final.pth"]
    assert list(content["metrics"]) == names and content["best"] in names
    metrics = content["metrics"]["model_final.pth"]
    assert {"bbox/AP", "bbox/AP-bar", "crowd/mMR"} <= metrics.keys()


def test_a_mistake_in_a_label_ends_the_run(folders: Path, capsys) -> None:
    (folders / "labels/1.txt").write_text("7 0.5 0.5 0.1 0.1")
    with pytest.raises(SystemExit) as caught:
        train_net(folders, "SOLVER.MAX_ITER", "1")
    assert caught.value.code == 2
    assert "labels/1.txt:1: the class must be in 0 … 1" in capsys.readouterr().err
