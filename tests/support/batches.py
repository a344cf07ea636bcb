"""Batches of mixed clips for the aggregators' tests: those that the exported checks use."""

from faster.aggregate.models.conformance import MAP_SHAPE, MODELS, NUM_CLASSES
from faster.aggregate.models.conformance import mixed_batch as make_batch

__all__ = ["MAP_SHAPE", "MODELS", "NUM_CLASSES", "make_batch"]
