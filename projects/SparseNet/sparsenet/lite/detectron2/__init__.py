"""Stands in for detectron2: has what SparseNet uses; lacks the rest and says so when asked.

A strict subset, written anew from Detectron2's behaviour: the same names, arguments, defaults, file
formats and coordinates. ``sparsenet/__init__`` puts it on ``sys.path`` only where the real package
is missing.
"""

from detectron2._lacking import install_finder

install_finder()

__version__ = "0.6+lite"
