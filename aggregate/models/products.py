"""Products with weights as a CPU does them fastest: float32 through oneDNN, which torch's own go past.

torch's float32 products on a CPU are MKL's, which leave half of an AMD core unused. In bf16 they are oneDNN's anyway.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import flop_registry, register_flop_formula

# What torch.compile puts in the place of F.linear on a CPU; it takes transposed tensors as they are.
_onednn_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if _onednn_linear and _onednn_linear not in flop_registry:

    @register_flop_formula(_onednn_linear)
    def _count(x: tuple[int, ...], weight: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(x) * weight[0]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias (…, out) of x (…, in) and a weight (out, in), plain or packed; without a gradient."""
    if weight.is_mkldnn or (
        _onednn_linear
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel()
        and weight.numel()
    ):
        if not (weight.is_mkldnn or weight.is_contiguous() or weight.t().is_contiguous()):
            weight = weight.contiguous()  # oneDNN takes a slice with its slowest code, 100 times as long
        out: Tensor = _onednn_linear(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)


def product_dtype(parameter: Tensor) -> torch.dtype:
    """What products with a parameter are computed in: its type, or autocast's."""
    device = parameter.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parameter.dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` of x (…, in); in float32 both ways go through `product`."""
    if product_dtype(weight) != torch.float32:
        return F.linear(x, weight, bias)
    rows: Tensor = _Linear.apply(x.flatten(0, -2), weight, bias)  # type: ignore[no-untyped-call]
    return rows.view(*x.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_x = product(d_out, weight.t()) if ctx.needs_input_grad[0] else None
        return d_x, product(d_out.t(), x.t()), d_out.sum(0)
