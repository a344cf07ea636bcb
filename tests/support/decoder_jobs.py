"""Loads for decoder processes that misbehave: they are named in a job, and run in the decoder's process."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from faster.errors import VideoError
from faster.extract.video.decode import LoadedVideo
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


def load_in_parts(
    path: Path, *, out: NDArray[np.uint8], parts: int, value: int = 0, failing: str | None = None
) -> Generator[LoadedVideo, NDArray[np.uint8], None]:
    """Parts filled with value, value + 1, …; before the last it may die, stall as `load_when_written`, or raise."""
    for part in range(parts):
        if failing and part == parts - 1:
            if failing == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if failing == "stalls":
                path.read_bytes()
            raise VideoError("the last part is broken")
        video = load_pid(path, out=out, value=value + part)
        out = yield replace(video, more=part < parts - 1)
