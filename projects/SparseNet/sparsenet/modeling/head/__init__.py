"""Detection heads: the cascade of dynamic instance heads and the dense first proposals."""

from sparsenet.modeling.head.dense_proposals import DenseProposals
from sparsenet.modeling.head.dynamic_head import DynamicHead, HeadOutput, RCNNStage, StageOptions

__all__ = ["DenseProposals", "DynamicHead", "HeadOutput", "RCNNStage", "StageOptions"]
