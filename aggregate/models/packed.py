"""Weights arranged as a CPU multiplies with them, once for many products.

A product with a plain weight arranges it anew each time, which at the 49 rows of one clip takes a third of the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_onednn_pack: Any = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
_onednn_takes_bf16: Any = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)

# For a parameter and a type: what it was, how it is packed, and its memory, held so that no other values come to lie
# at its address.
_kept: Any = WeakTensorKeyDictionary()


def pack(weight: Tensor) -> Tensor:
    """A weight (out, in) for a training step's `product`s; on a CPU float32 is packed, and bf16 lies in one piece.

    Packing bf16 takes longer than a step of a few clips gains by it.
    """
    if weight.device.type != "cpu":
        return weight
    if _onednn_pack and weight.dtype == torch.float32:
        packed: Tensor = _onednn_pack(weight)
        return packed
    return weight.contiguous()


def pack_once(parameter: Tensor, dtype: torch.dtype) -> Tensor:
    """A parameter (out, in) for `product`s in `dtype` without a gradient, packed once until its values change.

    The parameter itself where it cannot be packed: on a GPU, in other types, and where changes leave no trace
    (made in inference mode). What is packed is kept as long as the parameter is.
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
    """Let go of how a parameter was packed: a fused optimiser changes weights without a trace."""
    _kept.pop(parameter, None)
