"""Stands in for detectron2.modeling.sampling: has subsample_labels; lacks nothing."""

import torch
from detectron2.layers import nonzero_tuple

__all__ = ["subsample_labels"]


def subsample_labels(
    labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int
):
    """Draws objects and background at random.

    Args:
        labels: (N,) labels; -1 is never drawn.
        num_samples: greatest number of draws.
        positive_fraction: greatest share of objects; background fills the rest.
        bg_label: label of background.

    Returns:
        (P,) indices of objects and (Q,) of background, with P + Q <= num_samples.
    """
    (positive,) = nonzero_tuple((labels != -1) & (labels != bg_label))
    (negative,) = nonzero_tuple(labels == bg_label)
    num_positive = min(len(positive), int(num_samples * positive_fraction))
    num_negative = min(len(negative), num_samples - num_positive)
    # Both permutations are drawn, and in this order, so that a seed draws Detectron2's samples.
    draws = [
        indices[torch.randperm(len(indices), device=indices.device)[:count]]
        for indices, count in ((positive, num_positive), (negative, num_negative))
    ]
    return draws[0], draws[1]
