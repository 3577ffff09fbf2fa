"""Logs, event writers and pictures of the active Detectron2, real or lite."""

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.events import EventStorage, TensorboardXWriter, get_event_storage
from detectron2.utils.logger import log_every_n, log_first_n, setup_logger
from detectron2.utils.visualizer import ColorMode, Visualizer

import sparsenet  # noqa: F401  makes detectron2 importable


def test_logger_files(tmp_path):
    setup_logger(str(tmp_path), name="contract_a", configure_stdout=False).warning("first")
    setup_logger(str(tmp_path), 1, name="contract_b", configure_stdout=False).info("second")
    setup_logger(str(tmp_path), name="contract_a", configure_stdout=False).info("third")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 2 and lines[0].endswith("contract_a WARNING: first")
    assert (tmp_path / "log.txt.rank1").read_text().endswith("contract_b INFO: second\n")


def test_logger_console(capsys):
    logger = setup_logger(name="contract_c", abbrev_name="c", color=False)
    logger.info("hello")
    assert capsys.readouterr().out.endswith("contract_c INFO: hello\n")


def test_log_rarely(caplog):
    with caplog.at_level("INFO"):
        for i in range(7):
            log_first_n(20, f"first {i}", 2, name="contract_d")
            log_first_n(20, f"message {i % 2}", 1, name="contract_d", key="message")
            log_every_n(20, f"every {i}", 3, name="contract_d")
    assert caplog.messages == [
        "first 0", "message 0", "every 0", "first 1", "message 1", "every 3", "every 6",
    ]  # fmt: skip


def test_storage_stack_and_errors():
    with pytest.raises(AssertionError, match="get_event_storage"):
        get_event_storage()
    with EventStorage(3) as outer:
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer and outer.iter == 3


def test_tensorboard_writer(tmp_path):
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        storage.put_image("picture", np.zeros((3, 4, 5), np.uint8))
        storage.put_histogram("weights", torch.arange(10.0))
        storage.put_scalar("loss", 1.0)
        writer.write()
        assert storage._vis_data == [] and storage._histograms == []
        writer.close()
    assert any(path.name.startswith("events.out") for path in tmp_path.iterdir())


def _picture(mode=ColorMode.IMAGE, scale=1.0, **metadata):
    name = f"contract_{len(MetadataCatalog.list())}"
    found = MetadataCatalog.get(name).set(thing_classes=["cat", "dog"], **metadata)
    return Visualizer(np.full((80, 120, 3), 90, np.uint8), found, scale=scale, instance_mode=mode)


@pytest.mark.parametrize("mode", list(ColorMode))
def test_draw_predictions(mode, tmp_path):
    instances = Instances((80, 120), pred_boxes=Boxes([[10, 10, 100, 70], [60, 5, 70, 12]]))
    instances.scores, instances.pred_classes = torch.tensor([0.876, 0.5]), torch.tensor([1, 0])
    visualizer = _picture(mode, scale=2.0, thing_colors=[(255, 0, 0), (0, 255, 0)])
    image = visualizer.draw_instance_predictions(instances)
    pixels = image.get_image()
    assert pixels.shape == (160, 240, 3) and pixels.dtype == np.uint8
    assert [text.get_text() for text in image.ax.texts] == ["dog 88%", "cat 50%"]
    assert [tuple(patch.get_bbox().bounds) for patch in image.ax.patches] == [
        (10, 10, 90, 60), (60, 5, 10, 7),
    ]  # fmt: skip
    assert (pixels[60:120, 18:22] != 90).any(), "the left side of the box is not visible"
    assert (pixels[150:, 2:10] == 90).all(), "the background changed"
    image.save(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0


def test_draw_dataset_dict():
    annotation = {"bbox": [10, 20, 30, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    crowd = {**annotation, "bbox": [50, 20, 10, 10], "category_id": 1, "iscrowd": 1}
    image = _picture().draw_dataset_dict({"annotations": [annotation, crowd]})
    assert [text.get_text() for text in image.ax.texts] == ["cat", "dog|crowd"]
    polygons = [{**annotation, "segmentation": [[10, 20, 40, 20, 40, 60]]}]
    assert len(_picture().draw_dataset_dict({"annotations": polygons}).ax.patches) == 2
    assert len(_picture().draw_dataset_dict({"annotations": []}).ax.patches) == 0


def test_draw_nothing_and_box():
    empty = Instances((80, 120), pred_boxes=Boxes([]), scores=torch.ones(0))
    visualizer = _picture()
    assert len(visualizer.draw_instance_predictions(empty).ax.patches) == 0
    assert Visualizer(np.zeros((9, 7, 3))).get_output().get_image().shape == (9, 7, 3)
    visualizer.draw_box((5, 5, 60, 60), alpha=1.0, edge_color="r")
    assert (visualizer.get_output().get_image()[5, 10:50, 0] > 200).all()
