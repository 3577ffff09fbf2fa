"""Stands in for detectron2.modeling.meta_arch.rcnn: has GeneralizedRCNN and ProposalNetwork; lacks
precomputed proposals."""

import torch
from detectron2.config import configurable
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.meta_arch.build import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

__all__ = ["GeneralizedRCNN", "ProposalNetwork"]

_MAX_DRAWN_PROPOSALS = 20


def _normalized_batch(model: nn.Module, batched_inputs: list[dict]) -> ImageList:
    """The images on the model's device, normalised and padded as its backbone wants them."""
    images = [item["image"].to(model.device) for item in batched_inputs]
    images = [(image - model.pixel_mean) / model.pixel_std for image in images]
    backbone = model.backbone
    return ImageList.from_tensors(
        images, backbone.size_divisibility, padding_constraints=backbone.padding_constraints
    )


def _register_pixel_statistics(model: nn.Module, mean, std) -> None:
    model.register_buffer("pixel_mean", torch.tensor(mean).view(-1, 1, 1), False)
    model.register_buffer("pixel_std", torch.tensor(std).view(-1, 1, 1), False)
    assert model.pixel_mean.shape == model.pixel_std.shape, (
        f"pixel_mean and pixel_std must have one length, got {len(mean)} and {len(std)}."
    )


def _targets(model: nn.Module, batched_inputs: list[dict]) -> list[Instances] | None:
    if "instances" not in batched_inputs[0]:
        return None
    return [item["instances"].to(model.device) for item in batched_inputs]


def _output_size(item: dict, image_size: tuple[int, int]) -> tuple[int, int]:
    return item.get("height", image_size[0]), item.get("width", image_size[1])


@META_ARCH_REGISTRY.register()
class GeneralizedRCNN(nn.Module):
    """Features of the image, proposals, then heads on each proposal."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pixel_mean: tuple[float],
        pixel_std: tuple[float],
        input_format: str | None = None,
        vis_period: int = 0,
    ):
        """Takes the three parts and what the input is.

        Args:
            backbone: images to named maps.
            proposal_generator: maps to proposals.
            roi_heads: maps and proposals to detections.
            pixel_mean, pixel_std: per channel.
            input_format: order of the channels; needed where ``vis_period`` is not 0.
            vis_period: iterations between pictures of the proposals; 0: none.
        """
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.input_format = input_format
        self.vis_period = vis_period
        if vis_period > 0:
            assert input_format is not None, "input_format is required for visualization!"
        _register_pixel_statistics(self, pixel_mean, pixel_std)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self):
        """Where images are moved to."""
        return self.pixel_mean.device

    def visualize_training(self, batched_inputs, proposals):
        """Puts a picture of the first image into the storage: its true boxes at the left, the best
        proposals at the right."""
        from detectron2.utils.visualizer import Visualizer  # matplotlib, which nobody else needs

        item, best = batched_inputs[0], proposals[0].proposal_boxes[:_MAX_DRAWN_PROPOSALS]
        image = convert_image_to_rgb(item["image"].permute(1, 2, 0), self.input_format)
        pictures = [
            torch.from_numpy(Visualizer(image).overlay_instances(boxes=boxes.to("cpu")).get_image())
            for boxes in (item["instances"].gt_boxes, best)
        ]
        picture = torch.cat(pictures, dim=1).permute(2, 0, 1)  # (3, h, 2w)
        get_event_storage().put_image(
            "Left: GT bounding boxes;  Right: Predicted proposals", picture
        )

    def forward(self, batched_inputs: list[dict[str, torch.Tensor]]):
        """Returns the losses in training, otherwise what ``inference`` does.

        Args:
            batched_inputs: per image "image" (C, h, w), in training "instances" with "gt_boxes",
                "gt_classes" and maybe "gt_masks", and "height" and "width" of the output, by
                default those of the image.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = _targets(self, batched_inputs)
        features = self.backbone(images.tensor)
        proposals, proposal_losses = self.proposal_generator(images, features, targets)
        _, detector_losses = self.roi_heads(images, features, proposals, targets)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        return {**detector_losses, **proposal_losses}

    def inference(
        self,
        batched_inputs: list[dict[str, torch.Tensor]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ):
        """Returns {"instances"} of each image in the frame of its output.

        Args:
            batched_inputs: see ``forward``.
            detected_instances: with "pred_boxes" and "pred_classes" in the frame of the input:
                only what the heads add to boxes is predicted.
            do_postprocess: False returns the bare Instances in the frame of the input.
        """
        assert not self.training, "inference needs the evaluation mode: call eval() first"
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            results, _ = self.roi_heads(images, features, proposals, None)
        else:
            detected = [item.to(self.device) for item in detected_instances]
            results = self.roi_heads.forward_with_given_boxes(features, detected)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, images.image_sizes)

    def preprocess_image(self, batched_inputs: list[dict[str, torch.Tensor]]):
        """Returns the normalised and padded batch as an ImageList."""
        return _normalized_batch(self, batched_inputs)

    @staticmethod
    def _postprocess(instances, batched_inputs: list[dict], image_sizes):
        return [
            {"instances": detector_postprocess(result, *_output_size(item, size))}
            for result, item, size in zip(instances, batched_inputs, image_sizes)
        ]


@META_ARCH_REGISTRY.register()
class ProposalNetwork(nn.Module):
    """A backbone and a proposal generator alone."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        proposal_generator: nn.Module,
        pixel_mean: tuple[float],
        pixel_std: tuple[float],
    ):
        """Takes the two parts and mean and deviation per channel of the input."""
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        _register_pixel_statistics(self, pixel_mean, pixel_std)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, backbone.output_shape()),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self):
        """Where images are moved to."""
        return self.pixel_mean.device

    def forward(self, batched_inputs):
        """Returns the losses in training, otherwise {"proposals"} of each image; inputs are those
        of GeneralizedRCNN."""
        images = _normalized_batch(self, batched_inputs)
        features = self.backbone(images.tensor)
        targets = _targets(self, batched_inputs)
        proposals, losses = self.proposal_generator(images, features, targets)
        if self.training:
            return losses
        return [
            {"proposals": detector_postprocess(result, *_output_size(item, size))}
            for result, item, size in zip(proposals, batched_inputs, images.image_sizes)
        ]
