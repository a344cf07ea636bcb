"""The common shape for maps of several shapes, and its cost; without torch."""

from __future__ import annotations

from collections.abc import Mapping

from ...runtime.flop_counter import MapShape


def adapted_shape(map_shapes: Mapping[str, MapShape], *, pooled: bool = False) -> MapShape:
    """Return the common shape of these maps: the smallest l, h and w, and the most channels.

    `pooled`: l = h = w = 1, for aggregators that use only the global average of a map.
    """
    frames, height, width, channels = zip(*map_shapes.values(), strict=True)
    most = max(channels)
    return (1, 1, 1, most) if pooled else (min(frames), min(height), min(width), most)


def projection_gflops(map_shape: MapShape, target: MapShape) -> float:
    """Return the GFLOPs of projecting a clip's pooled map to the target's channels; 0 if it has them."""
    frames, height, width, channels = target
    return 0.0 if map_shape[3] == channels else frames * height * width * map_shape[3] * channels / 1e9
