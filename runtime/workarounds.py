"""Workarounds for faults in libraries.

`tests/runtime/test_workarounds.py` shows that each fault still exists. If one of these tests fails with a
newer PyTorch, remove its workaround.

Three more workarounds are in other modules, seen with PyTorch 2.13.0 (oneDNN 3.12.0):

- `extract/train_backbone/resnet3d_training.py`, `task.py`: in bf16 on a CPU with AVX-512, the gradient of
  Conv3d's weight is wrong, not a number, or never returns, if no window of the kernel lies completely within
  the clip's frames: 2 frames, 3 in time, padding 1.
- `training/distributed.py`: a process group that is made before the import of
  `torch.distributed.nn.functional` is kept forever.
- `aggregate/models/cpu_kernels.py`: oneDNN multiplies with a slice of a matrix's columns by its slowest code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FEW_CHANNELS = 16
"""The widest of oneDNN's blocks of input channels: 8 with AVX2, 16 with AVX-512."""


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """Compute `F.conv2d`; for a strided 1×1 kernel with few input channels on a CPU, without the stride.

    Fault: for the weight's gradient, oneDNN's `jit_1x1:avx2` and `jit_1x1:avx512_core` (float32, channels
    last, one group, no padding, sizes divisible by the stride) copy the positions that the stride keeps into
    a workspace of positions × channels, but place each part after the first as if there were 8 or 16
    channels. With fewer channels they write out of bounds: a crash, a hang, or wrong gradients. The output
    and the input's gradient come from other kernels. Maps in three dimensions do not use these kernels.
    Workaround: select the positions first, which is the same convolution.
    Seen: PyTorch 2.13.0 (oneDNN 3.12.0), on Linux x86.
    Upstream: https://github.com/uxlfoundation/oneDNN/issues/6035, open.
    """
    if _writes_outside(x, weight, stride, padding):
        x, stride = _kept(x, stride), [1] * len(stride)
    return F.conv2d(x, weight, bias, stride, padding)


class SafeConvolutions(TorchFunctionMode):
    """Within this mode, `F.conv1d` and `F.conv2d` of any network use the workaround of `conv2d`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of PyTorch; a convolution may run without its stride."""
        if func in _DIMENSIONS:
            return _convolve(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


_DIMENSIONS: dict[Any, int] = {F.conv1d: 1, F.conv2d: 2}


def _convolve(
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    strides, paddings = _each(stride, _DIMENSIONS[func]), _each(padding, _DIMENSIONS[func])
    if _writes_outside(input, weight, strides, paddings):
        input, stride = _kept(input, strides), 1
    return func(input, weight, bias, stride, padding, dilation, groups)


def _each(number: Any, dimensions: int) -> list[int]:
    """Return one number per dimension; 0 for a padding given as text: "same" implies stride 1 in PyTorch."""
    if isinstance(number, str):
        return [0] * dimensions
    numbers = [number] if isinstance(number, int) else list(number)
    return numbers * dimensions if len(numbers) == 1 else numbers


def _writes_outside(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> bool:
    return (
        weight.shape[1] < FEW_CHANNELS
        and weight[0, 0].numel() == 1
        and any(step != 1 for step in stride)
        and not any(padding)
        and x.device.type == "cpu"
    )


def _kept(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Return the positions of (…, H, W) that a 1×1 kernel sees with this stride."""
    for dim, step in zip(range(-len(stride), 0), stride, strict=True):
        x = x.movedim(dim, 0)[::step].movedim(0, dim)
    return x


@contextmanager
def native_output_to_stderr() -> Iterator[None]:
    """Redirect what C++ code writes to standard output to standard error, within the block.

    Fault: gloo reports its connection on standard output, before the JSON of `--json`.
    Seen: PyTorch 2.10.0; not with 2.13.0.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
