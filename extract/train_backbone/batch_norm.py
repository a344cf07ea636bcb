"""Batch norm in training with the ReLU after it, on a CPU: float32 statistics of channels-last maps.

PyTorch's own kernels work along the channels. Narrow networks have few (11 to 64), so most vector lanes stay
idle. Here k places are taken as one of k·c channels, and their statistics are combined afterwards; the
kernels are PyTorch's. The reference is `nn.BatchNorm3d`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import RunError

CHANNELS = 512
"""The most channels that are made from several places."""


def norm_relu(x: Tensor, norm: nn.BatchNorm3d, *, relu: bool) -> Tensor:
    """Normalise (n, c) over n, with ReLU if asked: (n, c) → (n, c) in the type of `x`.

    It updates the running statistics as the module does. Raises RunError if n is 1: a single value has no
    variance.
    """
    if (n := len(x)) == 1:
        raise RunError(
            "batch norm met a single value: one clip is left of a batch, and its maps have one place; raise "
            "--batch-size or --size, and use another --out"
        )
    y, mean, var = _NormReLU.apply(x, norm.weight, norm.bias, norm.eps, relu)  # type: ignore[no-untyped-call]
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (n / (n - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)
    normed: Tensor = y
    return normed


class _NormReLU(torch.autograd.Function):
    """(y, mean, var) of x (n, c); mean and var are (c,) float32, and var is the batch's own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        fold = _fold(x)
        statistics = torch.ops.aten.batch_norm_update_stats(
            _as_pictures(x, fold), *_standard(weight, fold * len(weight)), 0.0
        )
        means, variances = (each.view(fold, -1) for each in statistics)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        scale = weight * (var + eps).rsqrt()
        y = _affine(x, scale, bias - mean * scale, fold)
        if relu:
            y.relu_()
        ctx.save_for_backward(x, weight, mean, var, *([y] if relu else []))
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight, mean, var, *kept = ctx.saved_tensors
        grad = grads[0].contiguous()
        if kept:
            grad = torch.ops.aten.threshold_backward(grad, kept[0], 0)
        fold, n = _fold(x), len(x)
        _, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            _as_pictures(grad, fold),
            _as_pictures(x, fold),
            weight.repeat(fold),
            mean.repeat(fold),
            var.repeat(fold),
            None,
            None,
            False,
            ctx.eps,
            [False, True, True],
        )
        to_weight, to_bias = to_weight.view(fold, -1).sum(0), to_bias.view(fold, -1).sum(0)
        if not ctx.needs_input_grad[0]:
            return None, to_weight, to_bias, None, None
        # (g − mean(g) − x̂ · mean(g · x̂)) · weight / deviation, with x̂ = (x − mean) / deviation, as a·g +
        # b·x + c
        per_deviation = (var + ctx.eps).rsqrt()
        a = weight * per_deviation
        b = -a * per_deviation * to_weight / n
        to_x = _affine(grad, a, -a * to_bias / n - b * mean, fold)
        rows = to_x.view(n // fold, -1)
        rows.addcmul_(x.view_as(rows), b.repeat(fold).to(x.dtype))
        return to_x, to_weight, to_bias, None, None


def _fold(x: Tensor) -> int:
    """Return how many places are taken as one, a power of two."""
    n, c = x.shape
    fold = 1
    while 2 * fold * c <= CHANNELS and n % (2 * fold) == 0:
        fold *= 2
    return fold


def _as_pictures(x: Tensor, fold: int) -> Tensor:
    """View (n, c) as (n / fold, fold · c, 1, 1), the same bytes."""
    return x.view(len(x) // fold, 1, 1, -1).permute(0, 3, 1, 2)


def _affine(x: Tensor, scale: Tensor, shift: Tensor, fold: int) -> Tensor:
    """Return x · scale + shift per channel, computed in float32, in the type of x."""
    standard = _standard(scale, fold * len(scale))
    y, _, _ = torch.native_batch_norm(
        _as_pictures(x, fold), scale.repeat(fold), shift.repeat(fold), *standard, False, 0.0, 0.0
    )
    return y.permute(0, 2, 3, 1).reshape(x.shape)


def _standard(like: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Return mean 0 and variance 1 in float32, which also makes the kernels compute in float32."""
    return like.new_zeros(channels), like.new_ones(channels)
