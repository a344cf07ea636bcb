"""How this process holds memory: freed blocks kept for the next step, and the garbage collector out of the way."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # from glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, where the C library is glibc; elsewhere nothing happens.

    glibc gives large blocks back to the system, which then hands each new one out page by page: a tenth of a
    FAST-GRU training step, and more with several threads. The process's peak stays what it is, and is held until
    the process ends. What the environment says about malloc goes first.
    """
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    if chosen or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    libc.mallopt(_MMAP_MAX, 0)


@contextmanager
def collector_paused() -> Iterator[None]:
    """For what makes objects by the million and no cycles: looking for some takes a third of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
