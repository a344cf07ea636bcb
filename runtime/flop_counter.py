"""Count the cost of a computation in GFLOPs as the paper does: one multiply-add is one FLOP.

The multiply-adds of convolutions and matrix products count, as in PyTorch's flop counter. Batch norm, ReLU,
pooling, biases and element-wise gates do not count; a classifier counts only if it runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

MapShape = tuple[int, int, int, int]
"""(l, h, w, c)"""

PAPER_FRAMES = 256
"""N × L in every setting of the paper: "we fix the total number of frames processed to be 256" (§4)."""


def paper_clips(clip_frames: int) -> int:
    """Return the number of clips of `clip_frames` frames in the paper's 256 frames; at least 1."""
    return max(1, PAPER_FRAMES // clip_frames)


def meta_copy(module: nn.Module) -> nn.Module:
    """Copy `module` in evaluation mode, with parameters and buffers that have shapes but no memory."""
    import torch
    from torch import nn

    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), parameter.requires_grad
        )
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(module, memo).eval()


def gflops(run: Callable[..., object], *inputs: Tensor) -> float:
    """Return the GFLOPs of `run(*inputs)`, counted without computing anything.

    `run` is a module or a method of one (`backbone.features`), or a function that accepts meta tensors. Only
    shape and dtype of the inputs matter.
    """
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    if isinstance(run, nn.Module):
        run = meta_copy(run)
    elif isinstance(owner := getattr(run, "__self__", None), nn.Module):
        run = getattr(meta_copy(owner), run.__name__)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(*(x.to("meta") for x in inputs))
    return float(counter.get_total_flops()) / 2e9  # PyTorch counts a multiply-add as two
