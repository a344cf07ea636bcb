"""What a backbone's multiplications round to: float32, or bfloat16 where the device has instructions for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ....errors import UsageError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bf16")
"""What can be asked for."""


def choose_precision(asked: str, device: torch.device, *, takes_bf16: bool) -> str:
    """What a network computes in on a device: "float32", "tf32" or "bf16".

    Auto is bf16 where the network takes it and the device has it in hardware. Float32 is "tf32" on a GPU
    whose convolutions PyTorch is set to round so.

    Raises:
        UsageError: `asked` is not one of `PRECISIONS`.
    """
    import torch  # here, so that what can be asked for is known without it

    if asked not in PRECISIONS:
        raise UsageError(f"precision {asked!r}; allowed: {', '.join(PRECISIONS)}")
    if asked == "bf16" or (asked == "auto" and takes_bf16 and has_bf16(device)):
        return "bf16"
    return "tf32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"


def as_asked(recorded: str) -> str:
    """What to ask for so that maps are as those whose provenance records this precision, on any device."""
    return "bf16" if recorded == "bf16" else "float32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware: Ampere or newer; AVX-512 BF16 or AMX, as oneDNN may use it.

    oneDNN takes no more of a processor than the variable ONEDNN_MAX_CPU_ISA says, where it is set.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    in_hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not in_hardware or not torch._C._has_mkldnn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    # That was oneDNN's own answer. It also says yes where it imitates bf16 with AVX-512's float32, which is
    # slow.
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")
    return cap.lower() not in ("avx512_core", "avx512_core_vnni")
