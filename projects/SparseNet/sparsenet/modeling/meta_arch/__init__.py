"""Meta architectures registered in META_ARCH_REGISTRY."""

from sparsenet.modeling.meta_arch.scaled_passes import SparseRCNNWithTTA
from sparsenet.modeling.meta_arch.sparse_rcnn import SparseRCNN

__all__ = ["SparseRCNN", "SparseRCNNWithTTA"]
