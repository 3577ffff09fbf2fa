"""Logs, event writers and pictures of the active Detectron2, real or lite."""

import numpy as np
import pytest
import torch
from contract.mask_cases import rle
from detectron2.data import MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks
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


def _ring() -> np.ndarray:
    """(80, 120) bool: a square with a hole."""
    mask = np.zeros((80, 120), bool)
    mask[10:50, 20:60] = True
    mask[25:35, 30:50] = False
    return mask


@pytest.mark.parametrize("mode", list(ColorMode))
def test_draw_predicted_masks(mode):
    masks = torch.from_numpy(np.stack([_ring(), np.zeros_like(_ring())]))
    instances = Instances((80, 120), pred_boxes=Boxes([[20, 10, 60, 50], [70, 5, 75, 12]]))
    instances.pred_masks, instances.pred_classes = masks, torch.tensor([1, 0])
    visualizer = _picture(mode, thing_colors=[(255, 0, 0), (0, 255, 0)])
    visualizer.img[:] = (200, 90, 10)
    image = visualizer.draw_instance_predictions(instances)
    box, outer, hole = image.ax.patches[:3]
    assert len(image.ax.patches) == 4, "the empty mask draws no more than its box"
    assert box.get_bbox().bounds == (20, 10, 40, 40)
    corners = [tuple(patch.get_extents().get_points().ravel()) for patch in (outer, hole)]
    to_picture = image.ax.transData.transform
    assert corners[0] == pytest.approx(to_picture([[20.5, 49.5], [59.5, 10.5]]).ravel())
    assert corners[1] == pytest.approx(to_picture([[29.5, 35.5], [50.5, 24.5]]).ravel())
    alpha = {ColorMode.IMAGE: 0.5, ColorMode.SEGMENTATION: 0.8, ColorMode.IMAGE_BW: 0.3}[mode]
    assert outer.get_facecolor()[3] == hole.get_facecolor()[3] == alpha
    if mode == ColorMode.IMAGE_BW:
        assert set(image.get_image()[60, 100]) == {100}, "grey outside the masks"


def test_overlay_takes_masks_of_every_form():
    ring = _ring()
    polygon = np.array([20.0, 10, 60, 10, 60, 50])
    counts = {"size": [80, 120], "counts": [800, 40, 8760]}
    forms = [
        (BitMasks(ring[None]), 2), (ring[None], 2), ([{"size": [80, 120], "counts": rle(ring)}], 2),
        ([counts], 1), (PolygonMasks([[polygon]]), 1), ([[polygon.tolist(), polygon]], 2),
    ]  # fmt: skip
    for masks, num in forms:
        image = _picture().overlay_instances(boxes=np.array([[20, 10, 60, 50]]), masks=masks)
        assert len(image.ax.patches) == 1 + num
    with pytest.raises(AssertionError):
        _picture().overlay_instances(boxes=np.array([[20, 10, 60, 50]]), masks=forms[0][0][:0])


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
