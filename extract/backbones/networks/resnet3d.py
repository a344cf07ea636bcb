"""3D residual networks: R2D, R(2+1)D and R3D of FASTER's Table 1, and R(2+1)D-34 of Tran et al. [36].

They exist at any width. All reduce time by 8 and space by 32 up to res5; R2D reduces time in its stem alone.
The bottleneck networks follow Table 1 literally: the stride is on the 3×3 and the 3×1×1 convolutions, a
strided 1×1×1 shortcut is used if the shape changes, and pool1 follows conv1. R(2+1)D-34 has basic blocks and
no pool1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ..base import Backbone
from .plans import (
    BASIC_BLOCKS,
    BOTTLENECK_BLOCKS,
    STEM_WIDTH,
    Size,
    mid_channels,
    padding,
    require_frames,
    stem_mid_channels,
)


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm, padded so that only the stride changes the size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size, stride: Size = (1, 1, 1)) -> None:
        conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding(kernel), bias=False)
        super().__init__(OrderedDict(conv=conv, norm=nn.BatchNorm3d(out_channels)))


class Block(nn.Module):
    """A residual block: relu(residual(x) + shortcut(x))."""

    def __init__(self, residual: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, l, h, w) → (B, c', l', h', w')."""
        return F.relu(self.residual(x) + self.shortcut(x), inplace=True)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The differences between R2D, R(2+1)D and R3D."""

    stem: Callable[[int], nn.Module]
    """conv1 for a stem width."""
    conv: Callable[[int, int, int], nn.Module]
    """The layers in place of the 3×3×3 convolution: (in_channels, out_channels, stride)."""
    strides_time: bool
    """Whether res3, res4 and res5 halve time as well."""


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def _stem_2d(width: int) -> nn.Module:
    return nn.Sequential(ConvNorm(3, width, (8, 7, 7), (8, 2, 2)), _relu())


def _stem_2plus1d(width: int) -> nn.Module:
    mid = stem_mid_channels(width)
    spatial, temporal = ConvNorm(3, mid, (1, 7, 7), (1, 2, 2)), ConvNorm(mid, width, (3, 1, 1))
    return nn.Sequential(spatial, _relu(), temporal, _relu())


def _stem_3d(width: int) -> nn.Module:
    return nn.Sequential(ConvNorm(3, width, (3, 7, 7), (1, 2, 2)), _relu())


def _conv_2d(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return ConvNorm(in_channels, out_channels, (1, 3, 3), (1, stride, stride))


def _conv_2plus1d(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    mid = mid_channels(in_channels, out_channels)
    spatial = ConvNorm(in_channels, mid, (1, 3, 3), (1, stride, stride))
    return nn.Sequential(spatial, _relu(), ConvNorm(mid, out_channels, (3, 1, 1), (stride, 1, 1)))


def _conv_3d(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return ConvNorm(in_channels, out_channels, (3, 3, 3), (stride, stride, stride))


KINDS = {
    "r2d": Kind(stem=_stem_2d, conv=_conv_2d, strides_time=False),
    "r2plus1d": Kind(stem=_stem_2plus1d, conv=_conv_2plus1d, strides_time=True),
    "r3d": Kind(stem=_stem_3d, conv=_conv_3d, strides_time=True),
}


def _bottleneck(kind: Kind, in_channels: int, planes: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            reduce=ConvNorm(in_channels, planes, (1, 1, 1)),
            relu1=_relu(),
            conv=kind.conv(planes, planes, stride),
            relu2=_relu(),
            expand=ConvNorm(planes, 4 * planes, (1, 1, 1)),
        )
    )


def _basic(kind: Kind, in_channels: int, planes: int, stride: int) -> nn.Sequential:
    first, second = kind.conv(in_channels, planes, stride), kind.conv(planes, planes, 1)
    return nn.Sequential(OrderedDict(conv1=first, relu1=_relu(), conv2=second))


class ResNet3D(Backbone):
    """One member of the family; its stages carry the names of Table 1 (conv1, pool1, res2 … res5, fc)."""

    takes_bf16 = True

    def __init__(
        self, kind: Kind, depth: int, *, width: int = STEM_WIDTH, num_classes: int | None = None
    ) -> None:
        super().__init__()
        bottleneck = depth in BOTTLENECK_BLOCKS
        blocks = BOTTLENECK_BLOCKS[depth] if bottleneck else BASIC_BLOCKS[depth]
        self.conv1 = kind.stem(width)
        self.pool1 = nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)) if bottleneck else nn.Identity()
        self.channels = width
        self.res2 = self._stage(kind, bottleneck, blocks[0], planes=width, stride=1)
        self.res3 = self._stage(kind, bottleneck, blocks[1], planes=2 * width, stride=2)
        self.res4 = self._stage(kind, bottleneck, blocks[2], planes=4 * width, stride=2)
        self.res5 = self._stage(kind, bottleneck, blocks[3], planes=8 * width, stride=2)
        self.num_classes = num_classes
        self.fc = nn.Linear(self.channels, num_classes) if num_classes is not None else None
        self._initialise()

    def _stage(self, kind: Kind, bottleneck: bool, blocks: int, *, planes: int, stride: int) -> nn.Sequential:
        residual = _bottleneck if bottleneck else _basic
        out_channels = 4 * planes if bottleneck else planes
        stage = nn.Sequential()
        for block_stride in (stride, *[1] * (blocks - 1)):
            shortcut: nn.Module = nn.Identity()
            if block_stride != 1 or self.channels != out_channels:
                strides = (block_stride if kind.strides_time else 1, block_stride, block_stride)
                shortcut = ConvNorm(self.channels, out_channels, (1, 1, 1), strides)
            stage.append(Block(residual(kind, self.channels, planes, block_stride), shortcut))
            self.channels = out_channels
        return stage

    def _initialise(self) -> None:
        """Initialise convolutions with He's normal, and each block as its shortcut (last norm's scale 0).

        Starting from the shortcut trains better.
        """
        if next(self.parameters()).is_meta:
            return  # nothing to fill; filling would import torch's compiler, which takes seconds
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, Block):
                last_norm = [m for m in module.residual.modules() if isinstance(m, nn.BatchNorm3d)][-1]
                nn.init.zeros_(last_norm.weight)

    def features(self, x: Tensor) -> Tensor:
        """Return the res5 map: (B, 3, L, H, W) float, normalised → (B, L/8, h, w, c).

        Raises UsageError if L is not a multiple of 8 (every network of the family ends at L/8).
        """
        require_frames(x.shape[2])
        x = self.pool1(self.conv1(x))
        x = self.res5(self.res4(self.res3(self.res2(x))))
        return x.permute(0, 2, 3, 4, 1)


def resnet3d(kind: str, depth: int, num_classes: int | None, *, width: int = STEM_WIDTH) -> ResNet3D:
    """Build a member of the family.

    `kind` is "r2d", "r2plus1d" or "r3d", `depth` a key of the tables above, `width` the stem's channels.
    """
    return ResNet3D(KINDS[kind], depth, width=width, num_classes=num_classes)
