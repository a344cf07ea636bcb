"""The plans of Table 1's networks without torch: their layers and so their costs.

`resnet3d` builds the networks from these tables. A test compares the costs with counts from the networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from ....errors import UsageError
from ....terminal.text import counted

Size = tuple[int, int, int]

STEM_WIDTH = 64
"""Stem channels of a name without `-w`."""

TEMPORAL_REDUCTION = 8
"""l = L / 8, in every network here."""

# Blocks in res2 … res5, by depth.
BOTTLENECK_BLOCKS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BASIC_BLOCKS = {34: (3, 4, 6, 3)}

KINDS = ("r2d", "r2plus1d", "r3d")


def require_frames(clip_frames: int) -> None:
    """Raise UsageError if these networks take no clips of `clip_frames` frames."""
    if clip_frames % TEMPORAL_REDUCTION:
        raise UsageError(
            f"a clip of {counted(clip_frames, 'frame')}; this network "
            f"takes a multiple of {TEMPORAL_REDUCTION}"
        )


def mid_channels(in_channels: int, out_channels: int) -> int:
    """Return the channels between the two halves of a (2+1)D convolution ([36] §3.5).

    The pair then has as many weights as the 3×3×3 convolution.
    """
    return 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)


def stem_mid_channels(width: int) -> int:
    """Return the channels between the two halves of the (2+1)D stem: 45 for 64, in proportion."""
    return max(1, round(45 * width / STEM_WIDTH))


def padding(kernel: Size) -> Size:
    """Return the padding with which only the stride changes the size.

    An even kernel (R2D's stem, 8 frames at stride 8) tiles the frames and needs none.
    """
    t, h, w = (k // 2 if k % 2 else 0 for k in kernel)
    return t, h, w


@dataclass(frozen=True, kw_only=True)
class PlanCost:
    """The cost of one clip up to its res5 map, and the number of weights, without a classifier."""

    multiply_adds: int
    parameters: int
    map_shape: tuple[int, int, int, int]
    """(l, h, w, c)"""


@dataclass(frozen=True)
class _Conv:
    """A convolution without bias and its batch norm."""

    in_channels: int
    out_channels: int
    kernel: Size
    stride: Size = (1, 1, 1)

    @property
    def parameters(self) -> int:
        return self.in_channels * self.out_channels * prod(self.kernel) + 2 * self.out_channels

    def out(self, size: Size) -> Size:
        return _strided(size, self.kernel, self.stride)


def _strided(size: Size, kernel: Size, stride: Size) -> Size:
    pads = padding(kernel)
    t, h, w = ((n + 2 * pad - k) // s + 1 for n, k, s, pad in zip(size, kernel, stride, pads, strict=True))
    return t, h, w


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """One network of the family: kind "r2d", "r2plus1d" or "r3d", its depth, and its stem's channels."""

    kind: str
    depth: int
    width: int = STEM_WIDTH

    @lru_cache(maxsize=256)  # noqa: B019 - plans are few, small and never change
    def cost(self, clip_frames: int, size: int) -> PlanCost:
        """Return the cost of one clip of `clip_frames` frames of size×size pixels.

        Raises UsageError if the network takes no such clips.
        """
        require_frames(clip_frames)
        here, multiply_adds, parameters = (clip_frames, size, size), 0, 0

        def run(convs: tuple[_Conv, ...], there: Size) -> Size:
            nonlocal multiply_adds, parameters
            for conv in convs:
                there = conv.out(there)
                multiply_adds += prod(there) * conv.in_channels * conv.out_channels * prod(conv.kernel)
                parameters += conv.parameters
            return there

        here = run(self._stem(), here)
        bottleneck = self.depth in BOTTLENECK_BLOCKS
        if bottleneck:
            here = _strided(here, (1, 3, 3), (1, 2, 2))  # pool1
        channels = self.width
        for planes, stride in self._blocks():
            out_channels = 4 * planes if bottleneck else planes
            if stride != 1 or channels != out_channels:
                strides = (1 if self.kind == "r2d" else stride, stride, stride)
                run((_Conv(channels, out_channels, (1, 1, 1), strides),), here)
            here = run(self._residual(channels, planes, stride, bottleneck), here)
            channels = out_channels
        return PlanCost(multiply_adds=multiply_adds, parameters=parameters, map_shape=(*here, channels))

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Yield (planes, stride) of each block from res2 to res5."""
        blocks = BOTTLENECK_BLOCKS.get(self.depth) or BASIC_BLOCKS[self.depth]
        for stage, count in enumerate(blocks):
            for block in range(count):
                yield self.width << stage, 2 if stage and not block else 1

    def _stem(self) -> tuple[_Conv, ...]:
        if self.kind == "r2d":
            return (_Conv(3, self.width, (8, 7, 7), (8, 2, 2)),)
        if self.kind == "r3d":
            return (_Conv(3, self.width, (3, 7, 7), (1, 2, 2)),)
        mid = stem_mid_channels(self.width)
        return _Conv(3, mid, (1, 7, 7), (1, 2, 2)), _Conv(mid, self.width, (3, 1, 1))

    def _conv(self, in_channels: int, out_channels: int, stride: int) -> tuple[_Conv, ...]:
        """Return the layers in place of the 3×3×3 convolution."""
        if self.kind == "r2d":
            return (_Conv(in_channels, out_channels, (1, 3, 3), (1, stride, stride)),)
        if self.kind == "r3d":
            return (_Conv(in_channels, out_channels, (3, 3, 3), (stride, stride, stride)),)
        mid = mid_channels(in_channels, out_channels)
        spatial = _Conv(in_channels, mid, (1, 3, 3), (1, stride, stride))
        return spatial, _Conv(mid, out_channels, (3, 1, 1), (stride, 1, 1))

    def _residual(self, in_channels: int, planes: int, stride: int, bottleneck: bool) -> tuple[_Conv, ...]:
        if not bottleneck:
            return (*self._conv(in_channels, planes, stride), *self._conv(planes, planes, 1))
        reduce, expand = _Conv(in_channels, planes, (1, 1, 1)), _Conv(planes, 4 * planes, (1, 1, 1))
        return reduce, *self._conv(planes, planes, stride), expand


PLANS = {
    f"{kind}{depth}": NetworkPlan(kind=kind, depth=depth) for kind in KINDS for depth in BOTTLENECK_BLOCKS
}
PLANS["r2plus1d34"] = NetworkPlan(kind="r2plus1d", depth=34)
"""Name → the network's plan at full width. Each also exists as `<name>-w<width>`."""
