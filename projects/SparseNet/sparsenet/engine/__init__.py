"""Training loop, optimiser, checkpoints, tiled evaluation."""

from sparsenet.engine.checkpoint import SafeCheckpointer
from sparsenet.engine.trainer import Trainer

__all__ = ["SafeCheckpointer", "Trainer"]
