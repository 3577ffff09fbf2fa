"""Stands in for detectron2.checkpoint.c2_model_loading: has matching of weights by the ends of
their names; lacks the renaming of Caffe2 models."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from detectron2._lacking import lacks

logger = logging.getLogger(__name__)


def align_and_update_state_dicts(
    model_state_dict: dict[str, torch.Tensor],
    ckpt_state_dict: dict[str, Any],
    c2_conversion: bool = True,
) -> dict[str, Any]:
    """Renames the keys of a file to those of a model that holds the same layers more deeply.

    A model key takes the longest file key that equals it or its end behind a dot: with the file key
    ``res2.0.conv1.weight`` that is ``backbone.bottom_up.res2.0.conv1.weight``.

    Returns:
        The renamed weights, and under their own names those that fit nothing.
    """
    if c2_conversion:
        raise lacks("Conversion of Caffe2 weights")
    result, source_of = {}, {}
    for key in sorted(model_state_dict):
        source = next((end for end in _ends(key) if end in ckpt_state_dict), None)
        if source is None:
            continue
        shape, wanted = ckpt_state_dict[source].shape, model_state_dict[key].shape
        if shape != wanted:
            logger.warning(
                "%s is not loaded: its shape in the checkpoint is %s, %s in the model has %s.",
                source, tuple(shape), key, tuple(wanted),
            )  # fmt: skip
            continue
        if source in source_of.values():
            raise ValueError(
                "Cannot match one checkpoint key to multiple keys in the model. "
                f"{source} fits {key} and another one."
            )
        result[key] = ckpt_state_dict[source]
        source_of[key] = source
    if not result:
        logger.warning("No weights in checkpoint matched with model.")
        return ckpt_state_dict
    used = set(source_of.values())
    logger.info("%d of %d weights in the checkpoint matched.", len(used), len(ckpt_state_dict))
    result.update({key: value for key, value in ckpt_state_dict.items() if key not in used})
    return result


def _ends(key: str) -> Iterator[str]:
    """ "a.b.c" -> "a.b.c", "b.c", "c"."""
    while key:
        yield key
        key = key.partition(".")[2]
