"""Test-time augmentation of Sparse R-CNN."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from small_sparse_rcnn import small_cfg, small_model, training_item

from sparsenet.errors import ConfigError
from sparsenet.modeling.meta_arch import SparseRCNN, SparseRCNNWithTTA

SIZE = (64, 96)


def make_tta(*, model=None, **changes):
    cfg = small_cfg()
    cfg.TEST.AUG.SCALE_FILTER, cfg.TEST.AUG.MIN_SIZES = False, (64,)
    cfg.TEST.AUG.MAX_SIZE, cfg.TEST.AUG.FLIP = 200, False
    for key, value in changes.items():
        cfg.TEST.AUG[key] = value
    return SparseRCNNWithTTA(cfg, model or small_model().eval())


def item(**more):
    return {"image": training_item([], size=SIZE)["image"], **more}


def sorted_rows(result):
    order = result.scores.argsort(descending=True)
    return result.scores[order], result.pred_boxes.tensor[order], result.pred_classes[order]


class BrightPixels(SparseRCNN):
    """Answers with the rectangle of the bright pixels, of class 1."""

    def forward(self, batched_inputs, do_postprocess=True):
        results = []
        for entry in batched_inputs:
            rows, columns = torch.nonzero(entry["image"][0] > 127, as_tuple=True)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            found = Instances(tuple(entry["image"].shape[1:]))
            found.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
            found.scores, found.pred_classes = torch.tensor([0.8]), torch.tensor([1])
            results.append(found)
        return results


def test_boxes_of_all_passes_return_to_the_image():
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    image[:, 20:40, 10:50] = 255
    tta = make_tta(model=BrightPixels(small_cfg()), MIN_SIZES=(64, 96, 128), FLIP=True)
    (result,) = tta([{"image": image, "height": 128, "width": 192}])
    found = result["instances"]
    assert len(found) == 1 and found.pred_classes.tolist() == [1] and found.image_size == (128, 192)
    torch.testing.assert_close(
        found.pred_boxes.tensor, torch.tensor([[20.0, 40, 100, 80]]), atol=1.5, rtol=0
    )


def test_a_size_keeps_the_boxes_of_its_range():
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    image[:, 20:40, 10:50] = 255  # a side of 28 pixels here, of 57 where it is enlarged
    model = BrightPixels(small_cfg())
    cases = (([20, 30], [0, 9]), 1), (([30, 99], [50, 60]), 1), (([30, 99], [60, 99]), 0)
    for ranges, count in cases:
        tta = make_tta(model=model, MIN_SIZES=(64, 128), SCALE_FILTER=True, SCALE_RANGES=ranges)
        assert len(tta([{"image": image}])[0]["instances"]) == count


@torch.no_grad()
def test_one_pass_without_overlaps_is_the_model():
    model = small_model().eval()
    (plain,) = model([item(height=128, width=192)])
    plain = plain["instances"]
    tta = make_tta(model=model, CVPODS_TTA=False)
    tta.nms_threshold = 1.0  # nothing is suppressed
    (result,) = tta([item(height=128, width=192)])
    for one, two in zip(sorted_rows(plain), sorted_rows(result["instances"])):
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("votes", [True, False])
def test_at_most_as_many_detections_as_proposals(votes):
    (result,) = make_tta(MIN_SIZES=(48, 64, 96), FLIP=True, CVPODS_TTA=votes)([item()])
    found = result["instances"]
    assert 0 < len(found) <= 12 and found.image_size == SIZE
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, 2] <= 96).all() and (boxes[:, 3] <= 64).all()


def test_what_does_not_fit():
    with pytest.raises(ConfigError, match="one pair for each of MIN_SIZES, got 13 and 1"):
        make_tta(SCALE_FILTER=True)
    with pytest.raises(ConfigError, match=r"works with MODEL.META_ARCHITECTURE SparseRCNN, got"):
        make_tta(model=torch.nn.Linear(1, 1))
