"""Accuracy of classifiers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sparsenet.errors import DatasetError


@torch.inference_mode()
def evaluate_classifier(
    model: nn.Module,
    loader: DataLoader,
    *,
    class_numbers: Sequence[int] | None = None,
    precision: torch.dtype = torch.float32,
    description: str = "evaluation",
    quiet: bool = False,
) -> dict[str, float]:
    """Accuracy over the photos of all processes.

    Args:
        model: From images to logits (B, K); it is put into evaluation mode.
        loader: Of images and class numbers; every process has its own share.
        class_numbers: Which of the model's classes the loader's 0, 1, 2 … are; the others are no
            choice. None: the same.
        precision: Below float32, forward runs under autocast.

    Returns:
        "top1", "top5" in percent and the cross-entropy "loss". Of fewer than five classes, "top5"
        is 100.

    Raises:
        DatasetError: If there is no photo.
    """
    device = next(model.parameters()).device
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=device)
    bar = tqdm(loader, desc=description, leave=False, disable=quiet or not comm.is_main_process())
    for images, targets in bar:
        targets = targets.to(device, non_blocking=True)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = model(images.to(device, non_blocking=True))
        if class_numbers is not None:
            logits = logits[:, class_numbers]
        sums += count_correct(logits.float(), targets)
    total = sum(comm.all_gather(sums.cpu()))
    num_images = total[0].item()
    if not num_images:
        raise DatasetError("An evaluation needs at least one photo, there is none.")
    top1, top5, loss = (total[1:] / num_images).tolist()
    return {"top1": 100 * top1, "top5": 100 * top5, "loss": loss}


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Number of images, of those right in the first and in the first five, and summed losses."""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (B, 5)
    hits = best == targets[:, None]
    return torch.stack(
        [
            hits.new_tensor(len(targets), dtype=torch.float64),
            hits[:, 0].sum(dtype=torch.float64),
            hits.sum(dtype=torch.float64),
            F.cross_entropy(logits, targets, reduction="sum").double(),
        ]
    )
