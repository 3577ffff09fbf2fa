"""Necks: what lies between a backbone's maps and a head."""

from sparsenet.modeling.neck.sparse_fpn import SparseFPN

__all__ = ["SparseFPN"]
