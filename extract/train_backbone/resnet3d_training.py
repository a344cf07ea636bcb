"""The package's own networks in the fastest form for training: channels last, convolutions in 2D.

This is `inference.resnet3d` with batch norms in training. A map is (B, T, H, W, C) in memory. The 1×k×k
convolutions see it as B·T pictures, and the k×1×1 ones as B pictures of T × H·W. That is faster, and
necessary in bfloat16 on a CPU: there PyTorch's Conv3d gives wrong weight gradients, up to 1e24 and NaN. So in
that case the 3×3×3 convolutions run in 2D too, over pictures with three times as many channels. The reference
is `ResNet3D.forward`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...runtime.workarounds import conv2d
from ..backbones import Backbone, ResNet3D
from ..backbones.inference.resnet3d import Pixels, flat_layers, stages, tiles
from ..backbones.networks.plans import require_frames
from ..backbones.networks.resnet3d import Block
from .batch_norm import norm_relu

POOL = ((1, 3, 3), (1, 2, 2), (0, 1, 1))


@dataclass(frozen=True, kw_only=True)
class _ConvNorm:
    """A convolution, its batch norm, and whether ReLU follows."""

    conv: nn.Conv3d
    norm: nn.BatchNorm3d
    relu: bool


@dataclass(frozen=True, kw_only=True)
class _Residual:
    """A residual block."""

    residual: list[_Layer]
    shortcut: list[_Layer]


class _MaxPool:
    """The maximum of 3×3 places at stride 2."""


_Layer = _ConvNorm | _Residual | _MaxPool


class TrainForward:
    """Pixels (B, L, H, W, 3) uint8 → float32 logits (B, K), with the network's own parameters and buffers.

    Pixels are rounded to `dtype`. Under autocast to bfloat16, convolutions round weights and maps to it;
    statistics, the norms' weights and the classifier stay in float32. Norms in evaluation mode use their
    running statistics. The network must be on its device.
    """

    def __init__(self, network: ResNet3D, layers: list[_Layer], dtype: torch.dtype) -> None:
        stem = next(module for module in network.conv1.modules() if isinstance(module, nn.Conv3d))
        group = stem.kernel_size[0] if tiles(stem) else 1
        on_cpu = stem.weight.device.type == "cpu"
        self._network, self._layers = network, layers
        self._pixels = Pixels(network, group, dtype, clip_by_clip=on_cpu)

    def __call__(self, frames: Tensor) -> Tensor:
        """Return the logits of clips. Raises UsageError if L is not a multiple of 8."""
        require_frames(frames.shape[1])
        with torch.no_grad():
            pixels = self._pixels(frames)
        maps = _run(self._layers, pixels)
        with torch.autocast(maps.device.type, enabled=False):
            logits = self._network.classify(maps.float())
        assert logits is not None  # backbone training needs a classifier
        return logits


def train_forward(network: Backbone, dtype: torch.dtype) -> TrainForward | None:
    """Return a network in this form; None if it, or one of its layers, is not this package's."""
    known = (
        isinstance(network, ResNet3D)
        and type(network).features is ResNet3D.features
        and type(network).maps_and_logits is Backbone.maps_and_logits
        and type(network).forward is Backbone.forward
    )
    if not known:
        return None
    layers = _layers(stages(network))  # type: ignore[arg-type]
    return None if layers is None else TrainForward(network, layers, dtype)  # type: ignore[arg-type]


def _layers(modules: list[nn.Module]) -> list[_Layer] | None:
    """Return the layers of nested sequences; None if one is not known."""
    flat = list(flat_layers(modules))
    layers: list[_Layer] = []
    while flat:
        first = flat.pop(0)
        if type(first) is Block:
            residual, shortcut = _layers([first.residual]), _layers([first.shortcut])
            if residual is None or shortcut is None:
                return None
            layers.append(_Residual(residual=residual, shortcut=shortcut))
        elif type(first) is nn.MaxPool3d and (first.kernel_size, first.stride, first.padding) == POOL:
            layers.append(_MaxPool())
        elif _is_plain(first) and flat and _is_usual(flat[0]):
            norm = flat.pop(0)
            relu = bool(flat) and type(flat[0]) is nn.ReLU
            if relu:
                flat.pop(0)
            layers.append(_ConvNorm(conv=first, norm=norm, relu=relu))  # type: ignore[arg-type]
        else:
            return None
    return layers


def _is_plain(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv3d
        and layer.groups == 1
        and set(layer.dilation) == {1}
        and layer.padding_mode == "zeros"
    )


def _is_usual(norm: nn.Module) -> bool:
    return (
        type(norm) is nn.BatchNorm3d
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
    )


def _run(layers: list[_Layer], x: Tensor) -> Tensor:
    """(B, T, H, W, C) → (B, T', H', W', C'), both contiguous."""
    for layer in layers:
        if isinstance(layer, _ConvNorm):
            x = _conv_norm(layer, x)
        elif isinstance(layer, _Residual):
            x = torch.add(_run(layer.residual, x), _run(layer.shortcut, x)).relu_()
        else:
            pooled = F.max_pool2d(_pictures(x), 3, 2, 1)
            x = _places(pooled, *x.shape[:2])
    return x


def _pictures(x: Tensor) -> Tensor:
    """View every time step of every clip as a picture, channels last in memory and second by name."""
    return x.flatten(0, 1).movedim(-1, 1)


def _places(pictures: Tensor, clips: int, times: int) -> Tensor:
    """View pictures as clips again."""
    y = pictures.movedim(1, -1)
    return y.reshape(clips, times, *y.shape[1:])


def _conv_norm(layer: _ConvNorm, x: Tensor) -> Tensor:
    conv, weight = layer.conv, layer.conv.weight
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    assert not isinstance(padding, str)
    if tiles(conv) or kernel[0] == 1:
        if tiles(conv):  # `Pixels` has moved the frames into the channels
            weight = weight.transpose(1, 2).flatten(1, 2)
        else:
            weight, x = weight.squeeze(2), x[:, :: stride[0]]
        y = conv2d(_pictures(x), weight, conv.bias, stride[1:], padding[1:])
        return _places(_norm(layer, y), *x.shape[:2])
    if kernel[1:] == (1, 1) and stride[1:] == (1, 1):
        rows = x.flatten(2, 3).movedim(-1, 1)
        y = F.conv2d(rows, weight.squeeze(4), conv.bias, (stride[0], 1), (padding[0], 0))
        y = _norm(layer, y).movedim(1, -1)
        return y.reshape(*y.shape[:2], *x.shape[2:4], y.shape[3])
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        x = _times_as_channels(x, kernel[0], stride[0], padding[0])
        y = F.conv2d(_pictures(x), weight.transpose(1, 2).flatten(1, 2), conv.bias, stride[1:], padding[1:])
        return _places(_norm(layer, y), *x.shape[:2])
    y = F.conv3d(x.movedim(-1, 1), weight, conv.bias, stride, padding)
    return _places(_norm(layer, _pictures(y.movedim(1, -1))), len(y), y.shape[2])


def _times_as_channels(x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Gather the inputs of each output time as channels, zeros outside.

    (B, T, H, W, C) → (B, T', H, W, kernel·C)
    """
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, padding, padding))
    times = (padded.shape[1] - kernel) // stride + 1
    seen = [padded[:, k : k + stride * (times - 1) + 1 : stride] for k in range(kernel)]
    return torch.cat(seen, dim=-1)


def _norm(layer: _ConvNorm, y: Tensor) -> Tensor:
    """Apply the batch norm of pictures, over all but the channels, and the ReLU."""
    norm = layer.norm
    if norm.training and y.device.type == "cpu":
        places = y.movedim(1, -1).contiguous()
        normed = norm_relu(places.flatten(0, 2), norm, relu=layer.relu)
        return normed.view(places.shape).movedim(-1, 1)
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    y = F.batch_norm(
        y,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        norm.training,
        0.0 if norm.momentum is None else norm.momentum,
        norm.eps,
    )
    return y.relu_() if layer.relu else y
