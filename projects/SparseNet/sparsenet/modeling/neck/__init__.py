"""Necks: what lies between a backbone's maps and a head."""

from sparsenet.modeling.neck.bifpn import BiFPN
from sparsenet.modeling.neck.lsnet_fpn import LSNetFPN
from sparsenet.modeling.neck.panet import PANet
from sparsenet.modeling.neck.sparse_fpn import SparseFPN

__all__ = ["BiFPN", "LSNetFPN", "PANet", "SparseFPN"]
