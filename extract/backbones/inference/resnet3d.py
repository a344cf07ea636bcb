"""The package's own networks in the libraries' fastest form: all convolutions but 3×3×3 run in 2D.

A map is always (B, T, H, W, C) in memory. Without moving a byte, the 1×k×k convolutions see it as B·T
pictures, and the k×1×1 ones as B pictures of T × H·W. R2D's stem (8 frames at stride 8) is a 2D convolution
over the 24 channels of 8 frames. The reference is `ResNet3D.features`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, flop_registry, register_flop_formula

from .. import Backbone, ResNet3D
from ..networks.plans import require_frames
from ..networks.resnet3d import Block

CACHE_BYTES = 16 << 20
"""Upper bound for the stem's output in one pass: larger maps do not suit the CPU's caches and allocator."""


class FastForward(nn.Module):
    """Pixels (B, L, H, W, 3) uint8 → maps (B, l, h, w, c) in `dtype`, and float32 logits (B, K) or None."""

    def __init__(self, network: ResNet3D, *, dtype: torch.dtype, onednn: bool) -> None:
        super().__init__()
        stem = next(module for module in network.conv1.modules() if isinstance(module, nn.Conv3d))
        group = stem.kernel_size[0] if tiles(stem) else 1
        self._dtype = dtype
        self._stem_stride = stem.stride
        self._stem_channels = max(m.out_channels for m in network.conv1.modules() if isinstance(m, nn.Conv3d))
        self.pixels = Pixels(network, group, dtype, clip_by_clip=onednn)
        self.layers = _sequence(stages(network), dtype, onednn)
        self.classify = network.classify

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return maps and logits. Raises UsageError if L is not a multiple of 8."""
        require_frames(frames.shape[1])
        maps = self.layers(self.pixels(frames))
        return maps, self.classify(maps.float())

    def clips_in_cache(self, clip_frames: int, size: int) -> int:
        """Return the clips per pass: the largest power of two with maps within `CACHE_BYTES`, at least 1."""
        t, h, w = self._stem_stride
        places = (clip_frames // t) * math.ceil(size / h) * math.ceil(size / w)
        clip_bytes = max(1, places * self._stem_channels * self._dtype.itemsize)
        return 1 << max(0, (CACHE_BYTES // clip_bytes).bit_length() - 1)


def fast_forward(network: Backbone, *, dtype: torch.dtype, onednn: bool) -> FastForward | None:
    """Return a folded network in this form; None if it, or one of its layers, is not this package's.

    With `onednn`, convolutions are oneDNN's on packed weights, fused with ReLU and the residual's sum. The
    weights are then read from `network` again each time the shape of the clips changes.
    """
    known = (
        isinstance(network, ResNet3D)
        and type(network).features is ResNet3D.features
        and type(network).maps_and_logits is Backbone.maps_and_logits
        and _are_known(stages(network))
    )
    return FastForward(network, dtype=dtype, onednn=onednn) if known else None  # type: ignore[arg-type]


def _count_flops() -> None:
    """Tell PyTorch's counter the cost of oneDNN's fused convolutions, which it would count as zero."""

    def alone(x: list[int], weight: list[int], *args: Any, out_shape: list[int], **kwargs: Any) -> int:
        return conv_flop_count(x, weight, out_shape)

    def summed(
        other: list[int], x: list[int], weight: list[int], *args: Any, out_shape: list[int], **kwargs: Any
    ) -> int:
        return conv_flop_count(x, weight, out_shape)

    for name, count in (("_convolution_pointwise", alone), ("_convolution_pointwise_", summed)):
        operator = getattr(torch.ops.mkldnn, name, None)
        if operator is not None and operator not in flop_registry:
            register_flop_formula(operator)(count)


_count_flops()


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused convolutions are available on this CPU.

    Warns if this PyTorch has other signatures than the known ones.
    """
    if not torch._C._has_mkldnn:
        return False
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    try:  # the operators are private and may change
        x = torch.zeros(1, 1, 1, 1, 1, dtype=dtype)
        conv = _Conv(nn.Conv3d(1, 1, 1).requires_grad_(False), relu=True, dtype=dtype, onednn=True)
        conv(conv(x), x)
    except (AttributeError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(
            f"the backbone runs slower than it could: oneDNN's convolutions cannot be called ({reason})",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


class Pixels(nn.Module):
    """uint8 (B, L, H, W, 3) → normalised (B, L/group, H, W, 3·group).

    The frames of a group become the channels of one picture.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Backbone, group: int, dtype: torch.dtype, clip_by_clip: bool) -> None:
        super().__init__()
        self._group, self._dtype, self._clip_by_clip = group, dtype, clip_by_clip
        mean, std = torch.tensor(network.mean), torch.tensor(network.std)
        device = next(network.parameters()).device
        self.register_buffer("scale", (1 / (255 * std)).repeat(group).to(device))
        self.register_buffer("shift", (-mean / std).repeat(group).to(device))

    def forward(self, frames: Tensor) -> Tensor:
        """Return the pixels of clips."""
        if not self._clip_by_clip:
            return self._normalised(frames).to(self._dtype)
        # One clip's floats fit in the cache.
        clips, frame_count, height, width, _ = frames.shape
        shape = (clips, frame_count // self._group, height, width, len(self.scale))
        pixels = torch.empty(shape, dtype=self._dtype)
        for i in range(clips):
            pixels[i : i + 1] = self._normalised(frames[i : i + 1])
        return pixels

    def _normalised(self, frames: Tensor) -> Tensor:
        if self._group > 1:  # as bytes: fewer to move
            groups = frames.reshape(len(frames), -1, self._group, *frames.shape[2:])
            frames = torch.cat(groups.unbind(2), dim=-1)
        width, channels = frames.shape[-2:]
        # Complete rows at once: a loop over three channels alone is too short.
        rows = frames.flatten(-2).float().mul_(self.scale.repeat(width)).add_(self.shift.repeat(width))
        return rows.view(*rows.shape[:-1], width, channels)


class _Conv(nn.Module):
    """A convolution, fused with the ReLU after it, or with the sum with a residual and its ReLU."""

    def __init__(self, conv: nn.Conv3d, *, relu: bool, dtype: torch.dtype, onednn: bool) -> None:
        super().__init__()
        self._source = [conv]  # in a list, so that its weights are not registered in this module too
        self._relu, self._dtype, self._onednn = relu, dtype, onednn
        kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
        assert not isinstance(padding, str)
        self._every = 1
        if tiles(conv) or kernel[0] == 1:
            self._form = "pictures"
            self._every = 1 if tiles(conv) else stride[0]
            self._stride, self._padding = list(stride[1:]), list(padding[1:])
        elif kernel[1:] == (1, 1) and stride[1:] == (1, 1):
            self._form = "time"
            self._stride, self._padding = [stride[0], 1], [padding[0], 0]
        else:
            self._form = "space and time"
            self._stride, self._padding = list(stride), list(padding)
        self._ones = [1] * len(self._stride)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.to(dtype), requires_grad=False)
        self.weight = nn.Parameter(torch.empty(0) if onednn else self._weight(), requires_grad=False)
        self._packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B, T, H, W, C) → (B, T', H', W', C'); the residual, of the output's shape, may be overwritten."""
        if self._every > 1:
            x = x[:, :: self._every].contiguous()
        y = self._convolve(self._seen(x), None if residual is None else self._seen(residual)).movedim(1, -1)
        if self._form == "pictures":
            return y.view(*x.shape[:2], *y.shape[1:])
        return y.view(*y.shape[:2], *x.shape[2:4], y.shape[-1]) if self._form == "time" else y

    def _seen(self, x: Tensor) -> Tensor:
        """View a map as the convolution takes it: same bytes, channels last in memory and second by name."""
        if self._form == "pictures":
            x = x.flatten(0, 1)
        elif self._form == "time":
            x = x.flatten(2, 3)
        return x.movedim(-1, 1)

    def _weight(self) -> Tensor:
        """Return the convolution's weight in the dimensions of this form."""
        weight = self._source[0].weight
        if tiles(self._source[0]):
            weight = weight.transpose(1, 2).flatten(1, 2)
        elif self._form == "pictures":
            weight = weight.squeeze(2)
        elif self._form == "time":
            weight = weight.squeeze(4)
        last = torch.channels_last_3d if weight.ndim == 5 else torch.channels_last
        return weight.to(self._dtype).contiguous(memory_format=last)

    def _convolve(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if not self._onednn:
            y = torch.convolution(
                x,
                self.weight,
                self.bias,
                self._stride,
                self._padding,
                self._ones,
                False,
                [0] * len(self._ones),
                1,
            )
            if residual is not None:
                y = y + residual
            return F.relu(y) if self._relu else y
        layout = (self._padding, self._stride, self._ones, 1)
        if self._packed is None or self._packed[0] != x.shape:
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self._packed = x.shape, pack(self._weight(), *layout, list(x.shape))
        weight = self._packed[1]
        if residual is None:
            relu = "relu" if self._relu else "none"
            return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *layout, relu, [], "")  # type: ignore[no-any-return]
        fused = torch.ops.mkldnn._convolution_pointwise_.binary
        return fused(residual, x, weight, self.bias, *layout, "add", 1.0, "relu", [], "")  # type: ignore[no-any-return]


class _Block(nn.Module):
    """A residual block. Its last convolution adds the shortcut."""

    def __init__(self, block: Block, dtype: torch.dtype, onednn: bool) -> None:
        super().__init__()
        *layers, last = flat_layers([block.residual])
        assert isinstance(last, nn.Conv3d)
        self.layers = _sequence(layers, dtype, onednn)
        self.last = _Conv(last, relu=True, dtype=dtype, onednn=onednn)
        self.shortcut = _sequence([block.shortcut], dtype, onednn)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        summed: Tensor = self.last(y, self.shortcut(x))
        return summed


class _MaxPool(nn.Module):
    """The maximum of 3×3 places at stride 2, for values that are not negative."""

    def __init__(self, onednn: bool) -> None:
        super().__init__()
        self._by_halves = onednn

    def forward(self, x: Tensor) -> Tensor:
        if not self._by_halves:
            pictures = F.max_pool2d(x.flatten(0, 1).movedim(-1, 1), 3, 2, 1)
            pooled = pictures.movedim(1, -1)
            return pooled.reshape(*x.shape[:2], *pooled.shape[1:])
        # PyTorch's is three times slower on the CPU. Values that are not negative have the same order as
        # their bits.
        integers = torch.int16 if x.dtype is torch.bfloat16 else torch.int32
        return _halved(_halved(x.view(integers), 2), 3).view(x.dtype)


def _halved(x: Tensor, dim: int) -> Tensor:
    """Return the maximum of places 2i − 1, 2i and 2i + 1 along a dimension, for every i."""
    before = (slice(None),) * dim
    even, odd = x[(*before, slice(0, None, 2))], x[(*before, slice(1, None, 2))]
    places, pairs = even.shape[dim], odd.shape[dim]
    largest = torch.empty(even.shape, dtype=x.dtype)
    torch.maximum(even.narrow(dim, 0, pairs), odd, out=largest.narrow(dim, 0, pairs))
    largest.narrow(dim, pairs, places - pairs).copy_(even.narrow(dim, pairs, places - pairs))
    after = largest.narrow(dim, 1, places - 1)
    torch.maximum(after, odd.narrow(dim, 0, places - 1), out=after)
    return largest


def tiles(conv: nn.Conv3d) -> bool:
    """Whether each output reads its own group of frames, shared with no other output."""
    return conv.kernel_size[0] == conv.stride[0] > 1 and conv.padding[0] == 0


def stages(network: ResNet3D) -> list[nn.Module]:
    """Return the modules that make the map, in order."""
    return [network.conv1, network.pool1, network.res2, network.res3, network.res4, network.res5]


def flat_layers(modules: list[nn.Module]) -> Iterator[nn.Module]:
    """Yield the layers and blocks of nested sequences, without identities."""
    for module in modules:
        if type(module).forward is nn.Sequential.forward:
            yield from flat_layers(list(module.children()))
        elif not isinstance(module, nn.Identity):
            yield module


def _are_known(modules: list[nn.Module]) -> bool:
    """Whether `_sequence` has a form for every layer."""
    layers = list(flat_layers(modules))
    follows = all(
        isinstance(before, nn.Conv3d if isinstance(layer, nn.ReLU) else nn.Module)
        and (isinstance(before, nn.ReLU) or not isinstance(layer, nn.MaxPool3d))
        for before, layer in pairwise(layers)
    )
    return follows and all(map(_is_known, layers))


def _is_known(layer: nn.Module) -> bool:
    if type(layer) is Block:
        inner = list(flat_layers([layer.residual]))
        return isinstance(inner[-1], nn.Conv3d) and _are_known(inner) and _are_known([layer.shortcut])
    if type(layer) is nn.Conv3d:
        return layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"
    if type(layer) is nn.MaxPool3d:
        return (layer.kernel_size, layer.stride, layer.padding) == ((1, 3, 3), (1, 2, 2), (0, 1, 1))
    return type(layer) is nn.ReLU


def _sequence(modules: list[nn.Module], dtype: torch.dtype, onednn: bool) -> nn.Sequential:
    """Build the known layers, with each ReLU in the convolution before it."""
    layers = list(flat_layers(modules))
    sequence = nn.Sequential()
    for i, layer in enumerate(layers):
        if isinstance(layer, Block):
            sequence.append(_Block(layer, dtype, onednn))
        elif isinstance(layer, nn.MaxPool3d):
            sequence.append(_MaxPool(onednn))
        elif isinstance(layer, nn.Conv3d):
            relu = i + 1 < len(layers) and isinstance(layers[i + 1], nn.ReLU)
            sequence.append(_Conv(layer, relu=relu, dtype=dtype, onednn=onednn))
    return sequence
