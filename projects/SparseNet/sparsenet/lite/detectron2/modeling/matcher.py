"""Stands in for detectron2.modeling.matcher: has Matcher; lacks nothing."""

import torch


class Matcher:
    """Labels each prediction by its best overlap with any ground truth."""

    def __init__(
        self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False
    ):
        """Takes rising thresholds, one label (-1 ignore, 0 background, 1 object) per interval that
        they cut, and whether each ground truth keeps its best predictions at any overlap."""
        assert thresholds[0] > 0, thresholds
        thresholds = [-float("inf"), *thresholds, float("inf")]
        assert thresholds == sorted(thresholds), f"Thresholds must rise: {thresholds}."
        assert set(labels) <= {-1, 0, 1}, f"Labels must be -1, 0 or 1: {labels}."
        assert len(labels) == len(thresholds) - 1, "One label more than thresholds is needed."
        self.thresholds = thresholds
        self.labels = labels
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Matches M ground truths and N predictions.

        Args:
            match_quality_matrix: (M, N) qualities, none negative.

        Returns:
            (N,) int64 indices of ground truths, and (N,) int8 labels.
        """
        quality = match_quality_matrix
        assert quality.dim() == 2, quality.shape
        if quality.numel() == 0:
            count = quality.size(1)
            matches = quality.new_zeros(count, dtype=torch.int64)
            return matches, quality.new_full((count,), self.labels[0], dtype=torch.int8)
        assert torch.all(quality >= 0), "Match qualities must not be negative."
        best, matches = quality.max(dim=0)
        labels = torch.ones_like(matches, dtype=torch.int8)
        for label, low, high in zip(self.labels, self.thresholds[:-1], self.thresholds[1:]):
            labels[(best >= low) & (best < high)] = label
        if self.allow_low_quality_matches:
            self.set_low_quality_matches_(labels, quality)
        return matches, labels

    def set_low_quality_matches_(self, match_labels, match_quality_matrix) -> None:
        """Sets to 1, in place, the labels of each ground truth's best predictions, with ties."""
        best = match_quality_matrix.max(dim=1, keepdim=True).values
        match_labels[(match_quality_matrix == best).any(dim=0)] = 1
