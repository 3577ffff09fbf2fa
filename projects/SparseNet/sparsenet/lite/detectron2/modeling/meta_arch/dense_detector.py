"""Stands in for detectron2.modeling.meta_arch.dense_detector: has DenseDetector and
permute_to_N_HWA_K; lacks pictures of the training."""

import torch
from detectron2._lacking import lacks
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn


def permute_to_N_HWA_K(tensor, K: int):
    """(N, A * K, H, W) to (N, H * W * A, K)."""
    assert tensor.dim() == 4, tensor.shape
    return tensor.permute(0, 2, 3, 1).reshape(len(tensor), -1, K)  # (N, H*W*A, K)


class DenseDetector(nn.Module):
    """A backbone and a head that predicts at every cell; subclasses give ``forward_training`` and
    ``forward_inference``."""

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str] | None = None,
        *,
        pixel_mean,
        pixel_std,
    ):
        """Takes the parts, the names of the maps that the head takes (None: all, fine to coarse),
        and mean and deviation per channel of the input."""
        super().__init__()
        self.backbone = backbone
        self.head = head
        if head_in_features is None:
            shapes = backbone.output_shape()
            head_in_features = sorted(shapes, key=lambda name: shapes[name].stride)
        self.head_in_features = head_in_features
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @property
    def device(self):
        """Where images are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, torch.Tensor]]):
        """Returns the losses in training, otherwise {"instances"} of each image; inputs are those
        of GeneralizedRCNN."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        maps = [features[name] for name in self.head_in_features]
        predictions = self.head(maps)
        if self.training:
            assert "instances" in batched_inputs[0], "Instance annotations are missing in training!"
            targets = [item["instances"].to(self.device) for item in batched_inputs]
            return self.forward_training(images, maps, predictions, targets)
        results = self.forward_inference(images, maps, predictions)
        outputs = []
        for result, item, size in zip(results, batched_inputs, images.image_sizes):
            height, width = item.get("height", size[0]), item.get("width", size[1])
            outputs.append({"instances": detector_postprocess(result, height, width)})
        return outputs

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses of the head's predictions."""
        raise NotImplementedError(f"{type(self).__name__} must have a method forward_training.")

    def preprocess_image(self, batched_inputs: list[dict[str, torch.Tensor]]):
        """Returns the normalised and padded batch as an ImageList."""
        images = [item["image"].to(self.device) for item in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def _transpose_dense_predictions(
        self, predictions: list[list[torch.Tensor]], dims_per_anchor: list[int]
    ) -> list[list[torch.Tensor]]:
        """Applies ``permute_to_N_HWA_K`` to every level of every kind of prediction."""
        assert len(predictions) == len(dims_per_anchor), (len(predictions), len(dims_per_anchor))
        return [
            [permute_to_N_HWA_K(level, dim) for level in levels]
            for levels, dim in zip(predictions, dims_per_anchor)
        ]

    def _ema_update(self, name: str, value: float, initial_value: float, momentum: float = 0.9):
        """Moves the attribute ``name`` towards ``value`` and returns it."""
        old = getattr(self, name, initial_value)
        setattr(self, name, old * momentum + value * (1 - momentum))
        return getattr(self, name)

    def _decode_per_level_predictions(
        self,
        anchors: Boxes,
        pred_scores: torch.Tensor,
        pred_deltas: torch.Tensor,
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """Returns the best boxes of one level of one image, before suppression.

        Args:
            anchors: R boxes.
            pred_scores: (R, K).
            pred_deltas: (R, 4), decoded by ``self.box2box_transform``.
            score_thresh: scores must be greater.
            topk_candidates: best so many.
            image_size: (h, w).
        """
        candidates = (pred_scores > score_thresh).nonzero()  # (C, 2) of anchor, class
        scores = pred_scores[candidates[:, 0], candidates[:, 1]]
        scores, order = scores.sort(descending=True)
        order = order[:topk_candidates]
        rows, classes = candidates[order].unbind(dim=1)
        boxes = self.box2box_transform.apply_deltas(pred_deltas[rows], anchors.tensor[rows])
        count = len(order)
        return Instances(
            image_size, pred_boxes=Boxes(boxes), scores=scores[:count], pred_classes=classes
        )

    def _decode_multi_level_predictions(
        self,
        anchors: list[Boxes],
        pred_scores: list[torch.Tensor],
        pred_deltas: list[torch.Tensor],
        score_thresh: float,
        topk_candidates: int,
        image_size: tuple[int, int],
    ) -> Instances:
        """Joins ``_decode_per_level_predictions`` of all levels."""
        return Instances.cat(
            [
                self._decode_per_level_predictions(
                    *level, score_thresh, topk_candidates, image_size
                )
                for level in zip(anchors, pred_scores, pred_deltas)
            ]
        )

    def visualize_training(self, batched_inputs, results):
        """Lacking."""
        raise lacks("DenseDetector.visualize_training (VIS_PERIOD)")
