"""The precision of a backbone's multiplications: float32, or bfloat16 if the hardware has it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ....errors import UsageError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bf16")
"""The values that `--precision` takes."""


def choose_precision(asked: str, device: torch.device, *, takes_bf16: bool) -> str:
    """Return the precision of a network on a device: "float32", "tf32" or "bf16".

    Auto is bf16 if the network takes it and the device has it in hardware. Float32 becomes "tf32" on a GPU if
    PyTorch is set to round its convolutions to it.

    Raises:
        UsageError: `asked` is not one of `PRECISIONS`.
    """
    import torch  # here, so that the options are known without torch

    if asked not in PRECISIONS:
        raise UsageError(f"precision {asked!r}; allowed: {', '.join(PRECISIONS)}")
    if asked == "bf16" or (asked == "auto" and takes_bf16 and has_bf16(device)):
        return "bf16"
    return "tf32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "float32"


def as_asked(recorded: str) -> str:
    """Return the `--precision` that makes maps like those with this recorded precision, on any device."""
    return "bf16" if recorded == "bf16" else "float32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware.

    This needs Ampere or newer, or AVX-512 BF16 or AMX on a CPU where oneDNN may use them. The variable
    ONEDNN_MAX_CPU_ISA limits the instructions that oneDNN uses.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    in_hardware = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if not in_hardware or not torch._C._has_mkldnn or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    # This was oneDNN's own answer. It also says yes if it emulates bf16 with AVX-512's float32, which is
    # slow.
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")
    return cap.lower() not in ("avx512_core", "avx512_core_vnni")
