"""Convolutions as stage one computes them, in a process that may crash: each shape's name is printed before its turn.

python convolutions.py layers    outputs and both gradients against float64 without oneDNN
python convolutions.py networks  every built-in network forward and backward, narrow and as wide as the documents name
"""

from __future__ import annotations

import itertools
import sys

import torch
from faster.extract.backbones import build
from faster.extract.backbones.registry import known_names
from faster.extract.train_backbone.resnet3d_training import train_forward
from faster.runtime.workarounds import SafeConvolutions, conv2d
from torch import Tensor
from torch.nn import functional as F

NAMED = ["r2d14-w8", "r2plus1d14-w8", "r2d14-w16", "r2plus1d26-w16", "r3d26-w16", "r2d26-w16", "r2d14"]
NARROW = [
    *(f"{name}-w4" for name in known_names()),
    *(
        f"{name}-w2" for name in ("r2d14", "r2plus1d14", "r3d14", "r2plus1d34")
    ),  # deeper ones repeat their layers
    *(f"r2plus1d34-w{width}" for width in (1, 8, 15)),
]


def layers() -> None:
    for channels, kernel, stride, last in itertools.product(range(1, 17), (1, 3), (1, 2), (True, False)):
        for dimensions in (2, 3):
            places = (32, 32) if dimensions == 2 else (4, 6, 6)
            name = f"{dimensions}D {channels} channels kernel {kernel} stride {stride} channels last {last}"
            print(name, flush=True)
            torch.manual_seed(channels)
            form = {2: torch.channels_last, 3: torch.channels_last_3d}[dimensions]
            x = torch.randn(2, channels, *places)
            weight = torch.randn(2 * channels + 6, channels, *[kernel] * dimensions)
            if last:
                x = x.contiguous(memory_format=form)
            padding = [kernel // 2] * dimensions
            strides = [stride] * dimensions
            with torch.backends.mkldnn.flags(enabled=False):
                expected = both_ways(x.double(), weight.double(), strides, padding)
            found = [] if dimensions == 2 else [both_ways(x, weight, strides, padding)]
            if dimensions == 2:
                with SafeConvolutions():
                    found.append(both_ways(x, weight, strides, padding))
                found.append(both_ways(x, weight, strides, padding, ours=True))
            for tensors in found:
                for what, own, exact in zip(
                    ("output", "to input", "to weight"), tensors, expected, strict=True
                ):
                    error = float((own - exact).abs().max() / exact.abs().max())
                    if not error < 1e-5:
                        sys.exit(f"{name}: {what} is wrong by {error:.1e} of the largest")


def both_ways(
    x: Tensor, weight: Tensor, stride: list[int], padding: list[int], ours: bool = False
) -> tuple[Tensor, ...]:
    """Output, gradient to the input, gradient to the weight."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    if ours:
        y = conv2d(x, weight, None, stride, padding)
    else:
        y = (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, None, stride, padding)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).cos().mul(7).sin().view_as(y).to(y)
    return y.detach(), *torch.autograd.grad(y, (x, weight), upstream.contiguous(memory_format=format_of(y)))


def format_of(y: Tensor) -> torch.memory_format:
    last = torch.channels_last if y.ndim == 4 else torch.channels_last_3d
    return last if y.is_contiguous(memory_format=last) else torch.contiguous_format


def networks() -> None:
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (2, 8, 64, 64, 3), dtype=torch.uint8)
    for name in [*NARROW, *NAMED]:
        network = build(name, 5)
        for dtype in (torch.float32, torch.bfloat16):
            print(name, dtype, flush=True)
            forward = train_forward(network, dtype)
            assert forward is not None
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
                logits = forward(frames)
            F.cross_entropy(logits, torch.tensor([0, 1])).backward()
            gradients = [parameter.grad for parameter in network.parameters()]
            if any(each is None or not each.isfinite().all() for each in gradients):
                sys.exit(f"{name} {dtype}: a gradient is lacking or not finite")
            network.zero_grad()


if __name__ == "__main__":
    {"layers": layers, "networks": networks}[sys.argv[1]]()
    print("all", flush=True)
