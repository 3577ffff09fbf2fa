"""Stands in for detectron2.utils: has comm, env, events, file_io, logger, registry, visualizer;
lacks analysis, collect_env, memory, testing and the video visualizer."""
