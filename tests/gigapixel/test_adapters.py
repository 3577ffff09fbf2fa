"""Other programs' detectors in our predictor, and our models in SAHI and supervision."""

import cv2
import numpy as np
import pytest
import shapely
import torch
from blob_detector import BlobDetector, plant, scattered_boxes
from golden_data import shared_path

from sparsenet.errors import CheckpointError, ConfigError
from sparsenet.gigapixel import GigapixelPredictor, TileOptions
from sparsenet.gigapixel.adapters import CallableDetector
from sparsenet.gigapixel.detections import Detections
from sparsenet.gigapixel.masks import encode_mask

SIZE = (700, 900)
TILES = TileOptions(size=256, overlap=96, batch_size=3)


def as_function(images):
    """BlobDetector as a plain function."""
    assert images.dtype == np.uint8
    assert images.shape[-1] == 3
    found = BlobDetector()([{"image": torch.from_numpy(i.transpose(2, 0, 1))} for i in images])
    instances = [one["instances"] for one in found]
    return [(i.pred_boxes.tensor.numpy(), i.scores.tolist(), i.pred_classes) for i in instances]


def test_a_function_finds_what_the_model_finds():
    image = plant(SIZE, scattered_boxes(SIZE, 60, (10, 60)))
    by_model = GigapixelPredictor(BlobDetector(), tile=TILES)(image, progress=False)
    by_function = GigapixelPredictor(CallableDetector(as_function), tile=TILES)(
        image, progress=False
    )
    assert len(by_model.detections) > 20
    for name in ("boxes_xyxy", "scores", "classes"):
        ours, theirs = (getattr(r.detections, name) for r in (by_model, by_function))
        np.testing.assert_array_equal(ours, theirs)


def test_nothing_found_may_be_empty_lists():
    predictor = GigapixelPredictor(CallableDetector(lambda b: [([], [], [])] * len(b)), tile=TILES)
    assert len(predictor(plant(SIZE, []), progress=False).detections) == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda b: [], r"one \(boxes, scores, classes\) per picture; got 0 for 1"),
        (lambda b: [(np.zeros((2, 4)), [0.5], [0])] * len(b), r"boxes \(N, 4\).*got \(2, 4\)"),
        (lambda b: [(np.zeros((1, 5)), [0.5], [0])] * len(b), r"got \(1, 5\)"),
    ],
)
def test_a_function_that_returns_something_else_is_refused(answer, message):
    with pytest.raises(ConfigError, match=message):
        CallableDetector(answer)([{"image": torch.zeros((3, 8, 8), dtype=torch.uint8)}])


def found(masks=None):
    return Detections(
        boxes_xyxy=np.array([[2, 3, 6, 9], [0, 0, 2, 2.5]]),
        scores=np.array([0.9, 0.4]),
        classes=np.array([1, 0]),
        truncated=np.array([False, True]),
        tile_ids=np.zeros(2),
        image_size=(12, 10),
        class_names=("person", "vehicle"),
        masks=masks,
    )


def test_supervision_takes_the_detections():
    pytest.importorskip("supervision", reason="needs supervision")
    theirs = found().to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, found().boxes_xyxy)
    assert theirs.class_id.tolist() == [1, 0]
    assert theirs["class_name"].tolist() == ["vehicle", "person"]
    assert theirs[theirs.confidence > 0.5]["truncated"].tolist() == [False]
    masks = [encode_mask(np.ones((6, 4), bool)), encode_mask(np.eye(3, 2, dtype=bool))]
    theirs = found(masks).to_supervision()
    assert theirs.mask.shape == (2, 12, 10)
    assert theirs.mask[0, 3:9, 2:6].all()
    assert theirs.mask.sum(axis=(1, 2)).tolist() == [24, 2]


# ---------------------------------------------------------------- YOLOX through ONNX


@pytest.fixture(scope="module")
def yolox():
    pytest.importorskip("onnxruntime", reason="needs sparsenet[onnx]")
    from sparsenet.gigapixel.onnx_detector import OnnxYoloxDetector

    return OnnxYoloxDetector(shared_path("data/weights/yolox_nano_coco.onnx"), num_threads=1)


def street(index=0):
    photos = sorted(shared_path("data/pennfudan/images").iterdir())
    return cv2.cvtColor(cv2.imread(str(photos[index])), cv2.COLOR_BGR2RGB)


def test_a_third_party_network_finds_pedestrians_in_tiles(yolox):
    photo = street()
    whole = yolox(photo[None])[0]
    persons = whole[0][whole[2] == 0]
    assert len(persons) >= 1
    tile = TileOptions(size=416, overlap=208, score_threshold=0.3, downsamples=(1, 2))
    predictor = GigapixelPredictor(CallableDetector(yolox), tile=tile)
    merged = predictor(photo, progress=False).detections
    assert set(merged.classes[:1].tolist()) == {0}
    best = merged.boxes_xyxy[merged.classes == 0]
    low = np.maximum(persons[:, None, :2], best[None, :, :2])
    high = np.minimum(persons[:, None, 2:], best[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    sides = [(b[:, 2:] - b[:, :2]).prod(-1) for b in (persons, best)]
    iou = shared / (sides[0][:, None] + sides[1][None] - shared)
    assert (iou.max(axis=1) > 0.6).all()


def test_letterboxed_pictures_give_boxes_in_their_own_pixels(yolox):
    photo = street()
    boxes, scores, _ = yolox(photo[None])[0]
    doubled = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    again, scores_again, _ = yolox(doubled[None])[0]
    assert boxes[scores.argmax()] * 2 == pytest.approx(again[scores_again.argmax()], abs=12)
    one_by_one = [yolox(picture[None])[0][0] for picture in (photo, photo[:, ::-1])]
    together = yolox(np.stack([photo, photo[:, ::-1]]))
    for alone, (batched, _, _) in zip(one_by_one, together):
        np.testing.assert_allclose(alone, batched, rtol=1e-4)


def test_a_file_that_is_no_onnx_model_is_refused(yolox, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="must be an ONNX model"):
        type(yolox)(tmp_path / "a.onnx")


# ---------------------------------------------------------------- SAHI


def test_sahi_runs_our_model_and_finds_the_same():
    predict = pytest.importorskip("sahi.predict", reason="needs sparsenet[sahi]")
    from sparsenet.gigapixel.sahi_adapter import SparseNetDetectionModel

    planted = scattered_boxes(SIZE, 60, (10, 60))
    image = plant(SIZE, planted)
    detector = BlobDetector(channel=2)
    predictor = GigapixelPredictor(
        detector, class_names=("dot", "blob"), tile=TILES, image_format="BGR"
    )
    model = SparseNetDetectionModel(model=predictor, confidence_threshold=0.3, device="cpu")
    result = predict.get_sliced_prediction(
        image, model, slice_height=256, slice_width=256, overlap_height_ratio=0.375,
        overlap_width_ratio=0.375, perform_standard_pred=False, batch_size=4, verbose=0,
        postprocess_type="NMS", postprocess_match_metric="IOS",
    )  # fmt: skip
    theirs = sorted(p.bbox.to_xyxy() for p in result.object_prediction_list)
    assert theirs == sorted(planted.tolist())
    assert {p.category.name for p in result.object_prediction_list} == {"dot"}
    assert max(len(batch) for batch in detector.inputs) == 4


class HalfMasks(BlobDetector):
    """Masks of the left half of every box; the last is empty."""

    def find(self, image):
        found = super().find(image)
        masks = torch.zeros((len(found), *image.shape[1:]), dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks[:-1], found.pred_boxes.tensor.int().tolist()):
            mask[y1:y2, x1 : (x1 + x2) // 2] = True
        found.pred_masks = masks
        return found


def test_sahi_gets_the_masks():
    pytest.importorskip("sahi", reason="needs sparsenet[sahi]")
    from sparsenet.gigapixel.sahi_adapter import SparseNetDetectionModel

    planted = [[10, 10, 30, 40], [50, 20, 60, 30], [10, 60, 40, 80]]
    model = SparseNetDetectionModel(model=GigapixelPredictor(HalfMasks()), device="cpu")
    model.perform_inference(plant((100, 120), planted))
    model.convert_original_predictions(shift_amount=[[100, 50]], full_shape=[[200, 300]])
    *halves, empty = model.object_prediction_list
    assert empty.mask is None and empty.bbox.to_xyxy() == planted[2]
    for found, (x1, y1, x2, y2) in zip(halves, planted):
        shifted = found.get_shifted_object_prediction()
        centre = (x1 + x2) // 2
        assert shifted.bbox.to_xyxy() == [x1 + 100, y1 + 50, centre + 100, y2 + 50]
        (ring,) = shifted.mask.segmentation
        outline = shapely.Polygon(np.reshape(ring, (-1, 2)))
        assert outline.equals(shapely.box(x1 + 100, y1 + 50, centre + 100, y2 + 50))
        assert shifted.mask.bool_mask.shape == (200, 300)
    model.convert_original_predictions()
    assert model.object_prediction_list[0].mask.full_shape == [100, 120]


def test_sahi_gets_told_what_is_missing():
    pytest.importorskip("sahi", reason="needs sparsenet[sahi]")
    from sparsenet.gigapixel.sahi_adapter import SparseNetDetectionModel

    with pytest.raises(ConfigError, match="got neither"):
        SparseNetDetectionModel(device="cpu")
    with pytest.raises(ConfigError, match="must be a GigapixelPredictor, got str"):
        SparseNetDetectionModel(model="a.pth", device="cpu")
