"""Models; importing this package registers every backbone and meta architecture."""

from sparsenet.modeling import backbone, head, losses, meta_arch

__all__ = ["backbone", "head", "losses", "meta_arch"]
