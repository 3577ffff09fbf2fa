"""Imported before any test: makes ``detectron2`` importable where the real package is missing."""

import sparsenet  # noqa: F401
