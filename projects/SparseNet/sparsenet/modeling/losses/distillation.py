"""Loss of a classifier that learns from labels and, on request, from a teacher.

Distillation is DeiT's (arXiv 2012.12877, section 3), which LSNet was trained with: a second head
learns the teacher's decision ("hard") or its distribution ("soft").
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsenet.errors import ConfigError

DISTILLATIONS = ("none", "soft", "hard")


class ClassifierLoss(nn.Module):
    """``(1 - alpha) · criterion(logits, targets) + alpha · distillation``.

    Args:
        criterion: Of logits (B, K) and targets, (B,) or (B, K).
        teacher: From the same images to logits (B, K). None: no distillation, ``alpha`` is 0.
        kind: "hard": cross-entropy with the teacher's best class. "soft": KL divergence of
            softened distributions, averaged over all B · K entries, as published.
        alpha: Share of the distillation, in [0, 1].
        temperature: Of the soft distributions.

    Raises:
        ConfigError: If a value is none of these.
    """

    def __init__(
        self,
        criterion: nn.Module,
        teacher: nn.Module | None = None,
        *,
        kind: str = "hard",
        alpha: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in DISTILLATIONS or not 0 <= alpha <= 1 or temperature <= 0:
            raise ConfigError(
                f"Distillation must be one of {', '.join(DISTILLATIONS)}, with alpha in [0, 1] and "
                f"a positive temperature; got {kind!r}, {alpha} and {temperature}."
            )
        self.criterion = criterion
        self.teacher = teacher and teacher.requires_grad_(False)
        self.kind, self.alpha, self.temperature = kind, alpha, temperature

    def forward(
        self, images: Tensor, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor
    ) -> Tensor:
        """
        Args:
            images: (B, 3, H, W), for the teacher.
            outputs: Logits (B, K); with a teacher the logits of both heads.

        Returns:
            A scalar.
        """
        if self.teacher is None:
            return self.criterion(outputs, targets)
        logits, student = outputs
        with torch.no_grad():
            teacher = self.teacher.eval()(images)
        distillation = self._distillation(student.float(), teacher.float())
        return (1 - self.alpha) * self.criterion(logits, targets) + self.alpha * distillation

    def _distillation(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kind == "hard":
            return F.cross_entropy(student, teacher.argmax(1))
        heat = self.temperature
        student, teacher = (F.log_softmax(x / heat, 1) for x in (student, teacher))
        divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
        return divergence / student.numel() * heat**2
