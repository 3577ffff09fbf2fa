"""Assignment and losses: Hungarian matching, set prediction losses, window-score supervision."""

from sparsenet.modeling.losses.criterion import SetCriterion
from sparsenet.modeling.losses.matcher import HungarianMatcher, LossWeights, Matches
from sparsenet.modeling.losses.targets import DetectionTargets
from sparsenet.modeling.losses.window_score import find_window_selector, window_score_losses

__all__ = [
    "DetectionTargets",
    "HungarianMatcher",
    "LossWeights",
    "Matches",
    "SetCriterion",
    "find_window_selector",
    "window_score_losses",
]
