import pytest
import torch
from detectron2.structures import Boxes, Instances

from sparsenet.modeling.head.dense_proposals import DenseProposals, assign_locations
from sparsenet.modeling.losses import DetectionTargets

STRIDES = (4, 8, 16, 32)


def _branch(num_proposals=10, channels=24):
    torch.manual_seed(0)
    return DenseProposals(channels, num_proposals, STRIDES)


def _features(size=128, num_images=1, channels=24):
    torch.manual_seed(1)
    return [torch.randn(num_images, channels, size // s, size // s) for s in STRIDES]


def _targets(per_image, whwh, ignore=None):
    instances = [
        Instances(
            (1, 1),
            gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            gt_classes=torch.zeros(len(boxes), dtype=torch.int64),
        )
        for boxes in per_image
    ]
    ignored = None if ignore is None else [Boxes(torch.tensor(b)) for b in ignore]
    return DetectionTargets.from_instances(instances, whwh, num_classes=1, ignore_boxes=ignored)


def _whwh(size=128, num_images=1):
    return torch.full((num_images, 4), float(size))


def _dense(per_image, size=128, ignore=None):
    whwh = _whwh(size, len(per_image))
    output = _branch()(_features(size, len(per_image)), whwh)
    return output, _targets(per_image, whwh, ignore)


def test_locations_are_cell_centres():
    output, _ = _dense([[]])
    num_cells = [(128 // s) ** 2 for s in STRIDES]
    assert output.logits.shape == (1, sum(num_cells))
    assert output.centres[0].tolist() == [2, 2] and output.centres[1].tolist() == [6, 2]
    assert output.centres[-1].tolist() == [112, 112]
    assert output.strides[[0, num_cells[0], -1]].tolist() == [4, 8, 32]


def test_first_boxes_are_centred_and_scaled_by_stride():
    output, _ = _dense([[]])
    size = output.boxes_xyxy[0, :, 2:] - output.boxes_xyxy[0, :, :2]
    ratio = size / (8 * output.strides[:, None])
    assert (ratio.log().abs() < 0.5).all()


@pytest.mark.parametrize("side", [1.5, 6.0, 20.0, 40.0, 45.3, 64.0, 90.5, 120.0])
def test_every_object_has_locations_of_its_size(side):
    box = [61.0 - side / 2, 59.0 - side / 2, 61.0 + side / 2, 59.0 + side / 2]
    output, targets = _dense([[box]])
    assigned = assign_locations(output, targets)[0]
    positive = assigned >= 0
    assert positive.any()
    strides = output.strides[positive]
    expected = max(min(side / 8, 32), 4)
    assert ((strides / expected).log2().abs() <= 0.751).all()
    offset = (output.centres[positive] - torch.tensor([61.0, 59.0])).abs().amax(-1)
    assert (offset <= 1.5 * strides).all()


def test_the_smaller_object_wins():
    output, targets = _dense([[[30.0, 30, 62, 62], [36.0, 36, 56, 56]]])
    assigned = assign_locations(output, targets)[0]
    centre = (output.centres - 46).abs().amax(-1) <= 4
    assert (assigned[centre & (output.strides == 4)] == 1).all()


def test_no_objects_and_padded_images():
    output, targets = _dense([[], [[30.0, 30, 62, 62]]])
    assigned = assign_locations(output, targets)
    assert (assigned[0] == -1).all() and (assigned[1] == 0).any()
    output, targets = _dense([[], []])
    losses = _branch().losses(output, targets)
    assert losses["loss_dense_box"] == 0 and losses["loss_dense_objectness"] > 0


def test_ignore_boxes_take_no_part():
    region = [32.0, 32, 96, 96]
    output, targets = _dense([[]], ignore=[[region]])
    output.logits.retain_grad()
    _branch().losses(output, targets)["loss_dense_objectness"].backward()
    inside = ((output.centres >= 32) & (output.centres <= 96)).all(-1)
    assert (output.logits.grad[0, inside] == 0).all()
    assert (output.logits.grad[0, ~inside] != 0).all()


def test_selection_takes_the_best_peaks_clipped_and_detached():
    branch = _branch(num_proposals=3)
    features, whwh = _features(), _whwh()
    output = branch(features, whwh)
    with torch.no_grad():
        output.logits.fill_(-5)
        output.logits[0, 40:42] = torch.tensor([3.0, 2.9])  # neighbours: one peak
        output.logits[0, 500] = 1.0
        output.logits[0, 1030] = 2.0  # second level
    boxes, content = branch.select(output, features, whwh)
    assert boxes.shape == (1, 3, 4) and content.shape == (1, 3, 24)
    assert not boxes.requires_grad and content.requires_grad
    expected = output.boxes_xyxy[0, [40, 1030, 500]].clamp(0, 128)
    torch.testing.assert_close(boxes[0], expected)
    assert output.image_scores().item() == pytest.approx(torch.tensor(3.0).sigmoid().item())


def test_features_are_taken_at_the_location():
    branch = _branch(num_proposals=2)
    features, whwh = _features(), _whwh()
    output = branch(features, whwh)
    with torch.no_grad():
        output.logits.fill_(-5)
        output.logits[0, 33] = 3.0  # row 1, column 1 of stride 4
        output.logits[0, -1] = 2.0  # last cell of stride 32
    _, content = branch.select(output, features, whwh)
    picked = torch.stack([features[0][0, :, 1, 1], features[3][0, :, -1, -1]])
    torch.testing.assert_close(content[0], branch.project_norm(branch.project(picked)))


def test_locations_in_the_padding_come_last():
    branch = _branch(num_proposals=6)
    features = _features()
    whwh = torch.tensor([[64.0, 64, 64, 64]])
    output = branch(features, whwh)
    with torch.no_grad():
        output.logits[~output.is_inside] = 9.0
    boxes, _ = branch.select(output, features, whwh)
    assert (boxes <= 64).all()
    assert output.image_scores().item() < 0.5


def test_fewer_locations_than_proposals():
    branch = _branch(num_proposals=300)
    features, whwh = _features(32), _whwh(32)
    boxes, content = branch.select(branch(features, whwh), features, whwh)
    assert boxes.shape == (1, 300, 4) and content.shape == (1, 300, 24)
    assert ((boxes[..., 2:] - boxes[..., :2]) >= 1 - 1e-4).all()


def test_learns_to_find_an_object():
    branch = _branch(num_proposals=1)
    optimizer = torch.optim.Adam(branch.parameters(), lr=5e-3)
    box = [40.0, 60, 64, 84]
    features = _features()  # noise: every location looks different
    targets = _targets([[box]], _whwh())
    for _ in range(60):
        output = branch(features, _whwh())
        losses = branch.losses(output, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    boxes, _ = branch.select(output, features, _whwh())
    assert losses["loss_dense_box"] < 0.2
    assert output.image_scores() > 0.3
    assert (boxes[0, 0] - torch.tensor(box)).abs().max() < 6


def test_float32_boxes_under_autocast():
    features, whwh = _features(), _whwh()
    with torch.autocast("cpu", torch.bfloat16):
        branch = _branch()
        output = branch(features, whwh)
        losses = branch.losses(output, _targets([[[30.0, 30, 62, 62]]], whwh))
    assert output.boxes_xyxy.dtype == torch.float32
    assert all(torch.isfinite(v) and v.dtype == torch.float32 for v in losses.values())
