"""The reference computes what our head computes: outputs and gradients."""

import pytest
import torch
from small_sparse_rcnn import STRIDES, WIDTH, small_cfg, small_model

from sparsenet.analysis.detector_speed import DetectorOptions
from sparsenet.analysis.head_speed import load_peer, measure_heads
from sparsenet.analysis.inputs import random_batch
from sparsenet.analysis.reference_head import ReferenceHead
from sparsenet.modeling.head.dynamic_head import DynamicHead


@pytest.mark.parametrize("num_images", [1, 3])
@pytest.mark.parametrize("options", [{}, {"DEEP_SUPERVISION": False}, {"USE_FOCAL": False}])
def test_outputs_and_gradients_are_equal(num_images: int, options: dict) -> None:
    torch.manual_seed(0)
    cfg, shapes = small_cfg(**options), small_model().backbone.output_shape()
    ours, reference = DynamicHead(cfg, shapes).double(), ReferenceHead(cfg, shapes).double()
    reference.load_state_dict(ours.state_dict())
    corners = torch.rand(num_images, 12, 2, 2, dtype=torch.float64) * 96
    boxes = torch.cat([corners.amin(2), corners.amax(2) + 4], dim=-1)
    gradients = []
    for head in (ours, reference):
        generator = torch.Generator().manual_seed(1)
        maps = [
            torch.randn(num_images, WIDTH, 96 // s, 96 // s, generator=generator).double()
            for s in STRIDES.values()
        ]
        proposals = torch.randn(num_images, 12, WIDTH, generator=generator).double()
        for tensor in (*maps, proposals):
            tensor.requires_grad_()
        output = head(maps, boxes, proposals)
        (output.logits.square().sum() + output.boxes_xyxy.sum() + output.features.sum()).backward()
        gradients.append([output, [t.grad for t in (*maps, proposals, *head.parameters())]])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-8, atol=1e-8)


def test_it_is_a_peer_for_the_benchmark() -> None:
    cfg, model = small_cfg(), small_model()
    batch = random_batch(cfg, (64, 64), batch_size=2, num_objects=2)
    peer = load_peer("sparsenet.analysis.reference_head:ReferenceHead")
    options = DetectorOptions(torch.device("cpu"), repetitions=1, quiet=True)
    records = measure_heads(cfg, model, batch, peer, options)
    assert max(record["difference"] for record in records) < 1e-4
