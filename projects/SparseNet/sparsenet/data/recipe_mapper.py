"""Training examples by the recipe of ``INPUT.AUG``, of photos and of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, detection_utils
from detectron2.data import transforms as T

from sparsenet.data.augmentation import Letterbox
from sparsenet.data.mixing import SampleAugmenter
from sparsenet.data.sample import Sample
from sparsenet.data.tile_mapper import TileMapper
from sparsenet.data.tile_sampler import TileRequest, TileRequests
from sparsenet.errors import ConfigError

FLIPS = {"horizontal": 0.5, "none": 0.0}  # INPUT.RANDOM_FLIP to probability


class RecipeMapper:
    """Makes an example of a dataset dict, and of others for mosaics and blends.

    Images are brought to ``INPUT.LETTERBOX`` or, where that is 0, to ``INPUT.MIN_SIZE_TRAIN``.

    Args:
        cfg: ``INPUT``, and ``MODEL.MASK_ON`` for masks.
        dicts: The dataset dicts that partners are drawn from.

    Raises:
        ConfigError: If ``INPUT`` asks for what only Detectron2's mappers do.
    """

    def __init__(self, cfg: CfgNode, dicts: Sequence[dict[str, Any]]) -> None:
        node = cfg.INPUT
        if node.CROP.ENABLED or node.RANDOM_FLIP not in FLIPS:
            raise ConfigError(
                "With INPUT.AUG or INPUT.LETTERBOX, INPUT.CROP.ENABLED must be False and "
                f"INPUT.RANDOM_FLIP one of {', '.join(FLIPS)}, got {node.CROP.ENABLED} and "
                f"{node.RANDOM_FLIP!r}. INPUT.AUG.CROP crops here."
            )
        self.image_format = node.FORMAT
        self.mask_format = node.MASK_FORMAT if cfg.MODEL.MASK_ON else None
        self.augmenter = SampleAugmenter.from_config(
            cfg, side=node.LETTERBOX, flip=FLIPS[node.RANDOM_FLIP]
        )
        self.resize: T.Augmentation = (
            Letterbox(node.LETTERBOX, self.augmenter.fill)
            if node.LETTERBOX
            else T.ResizeShortestEdge(
                node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING
            )
        )
        # Workers share the serialised bytes, where a list would be copied into each.
        self._dicts = DatasetFromList(list(dicts), copy=False)

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Builds one example; the dict that is passed in stays as it is.

        Returns:
            The dict without ``annotations``, with ``image``, ``instances`` and ``ignore_boxes``
            in pixels of the augmented image.
        """
        rng = np.random.default_rng(np.random.randint(2**31))
        sample = self.augmenter(
            self._read(dataset_dict),
            rng,
            lambda _: self._read(self._dicts[int(rng.integers(len(self._dicts)))]),
            self._fit,
        )
        kept = {key: value for key, value in dataset_dict.items() if key != "annotations"}
        return {**kept, **sample.to_example(self.mask_format)}

    def _read(self, item: dict[str, Any]) -> Sample:
        image = detection_utils.read_image(item["file_name"], format=self.image_format)
        detection_utils.check_image_size(dict(item), image)
        annotations = item.get("annotations", [])
        return Sample.from_annotations(image, annotations, has_masks=bool(self.mask_format))

    def _fit(self, sample: Sample) -> Sample:
        return sample.transformed(self.resize.get_transform(sample.image))


class RecipeTileMapper:
    """Makes an example of a tile request, and of others for mosaics and blends.

    All is drawn from the request's own numbers: the same seed gives the same examples on any
    number of workers.

    Args:
        cfg: ``INPUT.AUG``.
        mapper: Reads tiles; its colour jitter and flips happen first, to every tile.
        requests: Gives the partners of a request.
    """

    def __init__(self, cfg: CfgNode, mapper: TileMapper, requests: TileRequests) -> None:
        self.mapper = mapper
        self.requests = requests
        self.augmenter = SampleAugmenter.from_config(cfg, side=mapper.size, flip=0.0)
        self._letterbox = Letterbox(mapper.size, self.augmenter.fill)

    def __call__(self, request: TileRequest) -> dict[str, Any]:
        """Builds one example, in the form of :class:`TileMapper`.

        Raises:
            ImageReadError: If the image, or that of a partner, cannot be read.
        """
        sample = self.augmenter(
            self.mapper.read_sample(request),
            self.mapper.generator(request, purpose=2),
            lambda number: self.mapper.read_sample(self.requests.partner(request, number)),
            self._fit,
        )
        return self.mapper.to_example(self._fit(sample), request)

    def _fit(self, sample: Sample) -> Sample:
        if sample.size == (self.mapper.size, self.mapper.size):
            return sample
        return sample.transformed(self._letterbox.get_transform(sample.image))
