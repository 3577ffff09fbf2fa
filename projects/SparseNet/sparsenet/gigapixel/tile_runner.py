"""Runs a detector on batches of tiles: precision, memory layout, compilation, memory limits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from torch import nn

from sparsenet.errors import ConfigError
from sparsenet.gigapixel.tile_batch import TileBatch

logger = logging.getLogger(__name__)

# A list of {"image": (3, H, W) uint8, "height", "width"} -> a list of {"instances": Instances}.
Model = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


@dataclass(frozen=True)
class RunOptions:
    """How the model runs; all but ``device`` need an ``nn.Module`` to have an effect.

    Args:
        device: Where the model is moved to; None leaves it where it is.
        use_bf16: Runs it under autocast to bfloat16.
        channels_last: Lays out its weights for faster convolutions.
        use_compile: Compiles its backbone, or all of it where it has none, for batches of one
            shape: the last, smaller batch is filled up.
    """

    device: str | torch.device | None = None
    use_bf16: bool = False
    channels_last: bool = False
    use_compile: bool = False


def detect_unpasted(model: Model, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The model's outputs; masks of one with heads as ``roi_masks``, (N, M, M) over the boxes.

    Such a model would paste each mask into an image of its own: N times the image, and in a coarse
    tile at its resolution instead of the image's.
    """
    if not isinstance(model, GeneralizedRCNN):
        return model(inputs)
    outputs = []
    for item, instances in zip(inputs, model.inference(inputs, do_postprocess=False)):
        if instances.has("pred_masks"):
            instances.roi_masks = instances.pred_masks[:, 0]  # (N, 1, M, M) -> (N, M, M)
            instances.remove("pred_masks")
        found = detector_postprocess(instances, item["height"], item["width"])
        outputs.append({"instances": found})
    return outputs


class TileRunner:
    """A model in evaluation mode that takes batches of tiles.

    Where a batch exceeds the GPU's memory, it is split, and later batches with it. A tile that
    exceeds it alone is a :class:`ConfigError`.

    Args:
        model: The detector; a callable that is no ``nn.Module`` is called as it is.
        options: How it runs.
        batch_size: Tiles at once, to begin with.
    """

    def __init__(self, model: Model, options: RunOptions, batch_size: int) -> None:
        self.model = model
        self.batch_limit = batch_size
        self._options = options
        if isinstance(model, nn.Module):
            _prepare(model, options)

    def __call__(self, batch: TileBatch) -> Iterator[tuple[TileBatch, list[dict[str, Any]]]]:
        """Yields the parts of a batch that were run at once, and the model's outputs for them."""
        start = 0
        while start < len(batch.tiles):
            part = batch.part(start, start + self.batch_limit)
            num_run = self._num_run(part)
            outputs = self._try(part, num_run)
            if outputs is None:
                self._halve(num_run)
                continue
            yield part, outputs
            start += len(part.tiles)

    def _num_run(self, batch: TileBatch) -> int:
        """Tiles that run at once; a compiled model's batches are filled up."""
        return self.batch_limit if self._options.use_compile else len(batch.tiles)

    def _try(self, batch: TileBatch, num_run: int) -> list[dict[str, Any]] | None:
        """The model's outputs, or None where several tiles at once exceed the GPU's memory."""
        try:
            return self._run(batch.pixels, num_run)
        except torch.cuda.OutOfMemoryError as error:
            if num_run > 1:
                return None
            height, width = batch.pixels.shape[-2:]
            raise ConfigError(
                f"The GPU's memory must hold at least one tile, {width} × {height} pixels do not "
                "fit. Lower TEST.TILE.SIZE, or use a GPU with more memory that is free."
            ) from error

    def _halve(self, num_tiles: int) -> None:
        torch.cuda.empty_cache()
        self.batch_limit = num_tiles // 2
        logger.warning(
            "Out of GPU memory with %d tiles at once; going on with %d. Set "
            "TEST.TILE.BATCH_SIZE to it to save the attempt.",
            num_tiles,
            self.batch_limit,
        )

    def _run(self, pixels: torch.Tensor, num_run: int) -> list[dict[str, Any]]:
        num_tiles = len(pixels)
        device = self.device
        if num_tiles < num_run:
            filling = pixels[-1:].expand(num_run - num_tiles, -1, -1, -1)
            pixels = torch.cat([pixels, filling])  # (num_run, 3, H, W)
        if device.type == "cuda":
            pixels = pixels.to(device, non_blocking=True)
        height, width = pixels.shape[-2:]
        inputs = [{"image": image, "height": height, "width": width} for image in pixels]
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._options.use_bf16),
        ):
            return detect_unpasted(self.model, inputs)[:num_tiles]

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are; the CPU for a model without any."""
        parameters = self.model.parameters() if isinstance(self.model, nn.Module) else iter(())
        return next((p.device for p in parameters), torch.device("cpu"))


def _prepare(model: nn.Module, options: RunOptions) -> None:
    if options.device is not None:
        model.to(options.device)
    if options.channels_last:
        model.to(memory_format=torch.channels_last)
    model.eval()
    if options.use_compile:
        backbone = getattr(model, "backbone", model)
        backbone.compile(dynamic=False)  # in place: the names in its state_dict stay
