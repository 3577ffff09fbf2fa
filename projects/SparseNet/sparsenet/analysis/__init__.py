"""Measurements and pictures: FLOPs, speed, memory, ablations, curves, annotations and results."""
