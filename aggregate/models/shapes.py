"""The one shape that maps of several shapes are brought to, and what that costs; without torch."""

from __future__ import annotations

from collections.abc import Mapping

from ...runtime.flop_counter import MapShape


def adapted_shape(map_shapes: Mapping[str, MapShape], *, pooled: bool = False) -> MapShape:
    """The one shape that maps of these shapes are brought to: the least l, h and w of all, and the most channels.

    `pooled`: l = h = w = 1, for aggregators that take nothing of a map but its global average.
    """
    frames, height, width, channels = zip(*map_shapes.values(), strict=True)
    most = max(channels)
    return (1, 1, 1, most) if pooled else (min(frames), min(height), min(width), most)


def projection_gflops(map_shape: MapShape, target: MapShape) -> float:
    """GFLOPs of projecting a clip's pooled map to the target's channels; a model that has them is not projected."""
    frames, height, width, channels = target
    return 0.0 if map_shape[3] == channels else frames * height * width * map_shape[3] * channels / 1e9
