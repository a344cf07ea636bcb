"""Fast products with weights on a CPU: float32 through oneDNN, which torch's own products do not use.

torch's float32 products on a CPU use MKL, which leaves half of an AMD core unused. In bf16 they use oneDNN
anyway. A weight can be packed: stored in the layout that the CPU multiplies with, once for many products. A
product with an unpacked weight changes the layout each time; with the 49 rows of one clip that takes a third
of the time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.flop_counter import flop_registry, register_flop_formula
from torch.utils.weak import WeakTensorKeyDictionary

# What torch.compile uses for F.linear on a CPU. It takes transposed tensors directly.
_onednn_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
if _onednn_linear and _onednn_linear not in flop_registry:

    @register_flop_formula(_onednn_linear)
    def _count(x: tuple[int, ...], weight: tuple[int, ...], *args: Any, **kwargs: Any) -> int:
        return 2 * math.prod(x) * weight[0]


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x · weightᵀ + bias (…, out) of x (…, in) and a weight (out, in), without a gradient.

    The weight may be packed.
    """
    if weight.is_mkldnn or (
        _onednn_linear
        and x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel()
        and weight.numel()
    ):
        if not (weight.is_mkldnn or weight.is_contiguous() or weight.t().is_contiguous()):
            # oneDNN uses its slowest code for a slice, 100 times slower.
            weight = weight.contiguous()
        out: Tensor = _onednn_linear(x, weight, bias, "none", [], "")
        return out
    return F.linear(x, weight, bias)


def product_dtype(parameter: Tensor) -> torch.dtype:
    """Return the type of products with a parameter: its own, or autocast's."""
    device = parameter.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else parameter.dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`F.linear` of x (…, in); in float32, forward and backward go through `product`."""
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


_onednn_pack: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_onednn_takes_bf16: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)

# For a parameter and a type: its state when packed, the packed form, and its memory. Holding the memory
# prevents other values at the same address.
_kept: Any = WeakTensorKeyDictionary()


def pack(weight: Tensor) -> Tensor:
    """Return a weight (out, in) for a training step's `product`s.

    On a CPU, float32 is packed, and bf16 is made contiguous. Packing bf16 takes longer than a step of a few
    clips gains by it.
    """
    if weight.device.type != "cpu":
        return weight
    if _onednn_pack and weight.dtype == torch.float32:
        packed: Tensor = _onednn_pack(weight)
        return packed
    return weight.contiguous()


def pack_once(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a parameter (out, in) for `product`s in `dtype` without a gradient, packed once.

    It is packed again when its values change. Returns the parameter itself if it cannot be packed: on a GPU,
    in other types, and if changes cannot be detected (made in inference mode). The packed form is kept as
    long as the parameter.
    """
    if (
        not _onednn_pack
        or parameter.device.type != "cpu"
        or parameter.is_inference()
        or not (dtype == torch.float32 or (dtype == torch.bfloat16 and _onednn_takes_bf16()))
    ):
        return parameter
    of_types = _kept.setdefault(parameter, {})
    now = parameter.data_ptr(), parameter._version
    known = of_types.get(dtype)
    if known is None or known[0] != now:
        known = now, _onednn_pack(parameter.detach().to(dtype)), parameter.untyped_storage()
        of_types[dtype] = known
    packed: Tensor = known[1]
    return packed


def forget(parameter: Tensor) -> None:
    """Discard a parameter's packed form: a fused optimiser changes weights without a trace."""
    _kept.pop(parameter, None)
