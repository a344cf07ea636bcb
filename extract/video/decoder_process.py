"""A decoder process: it loads videos from a pipe into shared memory, and survives their errors."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import VideoError
from ...runtime.signals import end_with_parent
from .decode import LoadedVideo
from .shared_memory import Slots

_NO_PIXELS = np.empty(0, dtype=np.uint8)

Load = Callable[..., LoadedVideo | Generator[LoadedVideo, NDArray[np.uint8], None]]


@dataclass(frozen=True, kw_only=True)
class VideoFailure:
    """The reason why a video has no clips, in one line."""

    reason: str


def serve(pipe: Connection, slots: Slots) -> None:
    """Run a decoder process: load each job until the parent's end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()  # a decode that hangs would never see the pipe close
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # Python ends such processes with it
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            load, path, arguments, slot = pipe.recv()
            pipe.send(None)
            outcomes = _outcomes(load, path, arguments, slots.view(slot))
            outcome = next(outcomes)
            pipe.send(outcome)
            while isinstance(outcome, LoadedVideo) and outcome.more:
                outcome = outcomes.send(slots.view(pipe.recv()))
                pipe.send(outcome)
            outcomes.close()


def _outcomes(
    load: Load, path: Path, arguments: dict[str, Any], out: NDArray[np.uint8]
) -> Generator[LoadedVideo | VideoFailure, NDArray[np.uint8], None]:
    """Yield the results of a video, part by part; the pixels are in the slots that are sent."""
    parts: Generator[LoadedVideo, NDArray[np.uint8], None] | None = None
    more = True
    while more:
        outcome: LoadedVideo | VideoFailure
        more = False
        try:
            loaded = load(path, out=out, **arguments) if parts is None else parts.send(out)
            if not isinstance(loaded, LoadedVideo):
                parts, loaded = loaded, next(loaded)
            if loaded.clips.ctypes.data != out.ctypes.data:
                raise TypeError(f"{load.__qualname__} did not load into its slot")
            more = loaded.more
            outcome = replace(loaded, clips=_NO_PIXELS)
        except VideoError as error:
            outcome = VideoFailure(reason=_one_line(str(error)))
        except BaseException as error:  # any error of a decoder is this video's failure
            outcome = VideoFailure(reason=_one_line(f"{type(error).__name__}: {error}"))
        out = yield outcome


def _one_line(text: str) -> str:
    return " ".join(text.split())
