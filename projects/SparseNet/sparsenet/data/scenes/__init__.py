"""Composed gigapixel scenes with exact truth, from drawn figures or from cut-outs of photos."""
