"""Stands in for detectron2.data.samplers: has the training, repeat-factor and inference samplers;
lacks RandomSubsetTrainingSampler and GroupedBatchSampler."""

from detectron2._lacking import package_getattr

from .distributed_sampler import InferenceSampler, RepeatFactorTrainingSampler, TrainingSampler

__all__ = ["InferenceSampler", "RepeatFactorTrainingSampler", "TrainingSampler"]

__getattr__ = package_getattr(__name__)
