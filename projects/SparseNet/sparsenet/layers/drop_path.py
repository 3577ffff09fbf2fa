"""Stochastic depth (arXiv 1603.09382)."""

from torch import Tensor, nn


class DropPath(nn.Module):
    """Drops the whole update of an entry of the first axis with probability ``rate`` in training.

    The entries are images in a dense map and windows in a packed one. Updates that stay are scaled
    by 1 / (1 - rate), so that the expectation is kept.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, update: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return update
        keep = 1 - self.rate
        shape = (update.shape[0],) + (1,) * (update.dim() - 1)
        return update * update.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
