"""Loads for decoder processes that misbehave: they are named in a job, and run in the decoder's process."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from faster.extract.decode import LoadedVideo
from numpy.typing import NDArray


def load_pid(path: Path, *, out: NDArray[np.uint8], value: int = 0) -> LoadedVideo:
    """Fill the slot with `value`; `frames` is the process's id."""
    out[:] = value
    zero = np.zeros(len(out), dtype=np.int64)
    return LoadedVideo(
        clips=out,
        starts=zero,
        times_seconds=zero.astype(np.float64),
        padded=zero,
        frames=os.getpid(),
        fps=25.0,
    )


def load_and_die(path: Path, *, out: NDArray[np.uint8], signal_number: int = signal.SIGKILL) -> LoadedVideo:
    os.kill(os.getpid(), signal_number)
    return load_pid(path, out=out)


def load_and_exit(path: Path, *, out: NDArray[np.uint8], code: int) -> LoadedVideo:
    os._exit(code)


def load_and_raise(path: Path, *, out: NDArray[np.uint8], error: BaseException) -> LoadedVideo:
    raise error


def load_when_written(path: Path, *, out: NDArray[np.uint8], value: int = 0) -> LoadedVideo:
    """Stand still, in the kernel, until somebody writes to the FIFO at `path`."""
    path.read_bytes()
    return load_pid(path, out=out, value=value)


def load_elsewhere(path: Path, *, out: NDArray[np.uint8], **arguments: Any) -> LoadedVideo:
    return load_pid(path, out=out.copy())
