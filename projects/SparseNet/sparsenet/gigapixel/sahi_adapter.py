"""Our models for SAHI: a ``DetectionModel`` wherever SAHI takes one.

    from sahi.predict import get_sliced_prediction

    model = SparseNetDetectionModel(config_path="configs/….yaml", model_path="model.pth")
    result = get_sliced_prediction("image.jpg", model, slice_height=512, slice_width=512)

It takes the arguments of ``AutoDetectionModel.from_pretrained``, but for ``model_type``. Unlike
SAHI's own Detectron2 adapter it loads any meta-architecture and runs real batches. Masks
(``pred_masks``) go along as polygons; SAHI then takes the mask's own box.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sparsenet.errors import ConfigError, MissingDependencyError
from sparsenet.gigapixel.exports import class_name
from sparsenet.gigapixel.masks import encode_mask, mask_polygons, mask_windows
from sparsenet.gigapixel.predictor import GigapixelPredictor

try:
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
    from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
except ImportError as error:
    raise MissingDependencyError(
        "sparsenet.gigapixel.sahi_adapter needs SAHI, which is not installed. "
        "Install it with `pip install 'sparsenet[sahi]'`."
    ) from error


class SparseNetDetectionModel(DetectionModel):
    """Runs the model of a :class:`GigapixelPredictor` on SAHI's slices.

    The arguments are those of SAHI's ``DetectionModel``. ``model`` may be a predictor; otherwise
    ``config_path`` is a YAML file of ``configs/`` and ``model_path`` its weights. ``image_size`` is
    of no effect: slices go through the model as they are.

    Raises:
        ConfigError: If there is neither a model nor a configuration.
    """

    category_mapping: dict[str, str] | None  # SAHI's, set by its constructor

    def load_model(self) -> None:
        """Builds the predictor from ``config_path`` and ``model_path``."""
        if self.config_path is None:
            raise ConfigError(
                "SparseNetDetectionModel needs config_path (a YAML file) or model (a "
                "GigapixelPredictor), got neither."
            )
        self.set_model(
            GigapixelPredictor.from_config_file(
                self.config_path, weights=self.model_path, device=str(self.device)
            )
        )

    def set_model(self, model: Any, **kwargs: Any) -> None:
        """Takes a :class:`GigapixelPredictor`."""
        if not isinstance(model, GigapixelPredictor):
            raise ConfigError(f"model must be a GigapixelPredictor, got {type(model).__name__}.")
        self.model = model
        if self.category_mapping is None:
            self.category_mapping = {str(i): name for i, name in enumerate(model.class_names)}

    def perform_inference(self, image: np.ndarray) -> None:
        """Runs one (H, W, 3) uint8 RGB slice."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        """Runs all slices in one call of the model."""
        inputs = []
        for image in images:
            channels = image if self.model.image_format == "RGB" else image[:, :, ::-1]
            pixels = torch.from_numpy(
                np.ascontiguousarray(channels.transpose(2, 0, 1))
            )  # (3, H, W)
            inputs.append({"image": pixels, "height": image.shape[0], "width": image.shape[1]})
        with torch.inference_mode():
            self._original_predictions = self.model.model(inputs)

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[list[int | float]] | None = None,
        full_shape_list: list[list[int | float]] | None = None,
    ) -> None:
        outputs = self._original_predictions
        shifts = fix_shift_amount_list(shift_amount_list or [[0, 0]] * len(outputs))
        shapes: list[Any] = fix_full_shape_list(full_shape_list) or [None] * len(outputs)
        self._object_prediction_list_per_image = [
            self._predictions(output["instances"].to("cpu"), shift, shape)
            for output, shift, shape in zip(outputs, shifts, shapes)
        ]

    def _predictions(self, instances: Any, shift: list[Any], shape: Any) -> list[ObjectPrediction]:
        instances = instances[instances.scores >= self.confidence_threshold]
        names = list((self.category_mapping or {}).values())
        boxes = instances.pred_boxes.tensor.numpy()
        segmentations: list[Any] = [None] * len(instances)
        if instances.has("pred_masks"):
            segmentations = [_polygons(m, b) for m, b in zip(instances.pred_masks.numpy(), boxes)]
        return [
            ObjectPrediction(
                bbox=box,
                score=score,
                category_id=index,
                category_name=class_name(names, index),
                segmentation=segmentation,
                shift_amount=shift,
                full_shape=shape or list(instances.image_size),  # a mask must have one
            )
            for box, score, index, segmentation in zip(
                boxes.tolist(),
                instances.scores.tolist(),
                instances.pred_classes.tolist(),
                segmentations,
            )
        ]


def _polygons(mask: np.ndarray, box_xyxy: np.ndarray) -> list[list[float]] | None:
    """COCO polygons of the (h, w) mask of a slice inside its box; None for an empty one."""
    window = mask_windows(box_xyxy[None])[0].clip(min=0)
    x1, y1, x2, y2 = window
    run_lengths = encode_mask(mask[y1:y2, x1:x2])
    return [ring.ravel().tolist() for ring in mask_polygons(run_lengths, window)] or None
