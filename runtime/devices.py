"""Select the compute device, and check that it exists."""

from __future__ import annotations

import torch

from ..errors import UsageError
from ..terminal.suggest import did_you_mean


def choose_device(name: str | None) -> torch.device:
    """Return the named device, or the first GPU, or the CPU.

    Raises:
        UsageError: there is no such device; the message lists the existing ones.
    """
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if name is None:
        return torch.device(gpus[0] if gpus else "cpu")
    if name != "cpu" and name not in gpus and not (name == "cuda" and gpus):
        known = ["cpu", *gpus]
        raise UsageError(f"no device {name!r} here; there is: {', '.join(known)}{did_you_mean(name, known)}")
    return torch.device(name)
