"""A network of the user's own that some videos kill: their colour says how. `--model fatal_network:build`."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
from pathlib import Path

import av
import numpy as np
import torch
from faster.errors import VideoError
from torch import Tensor, nn

# Set, it fails those videos with this reason and dies of none.
SPARED = "FASTER_TEST_SPARED"
DEATHS = {"red": "exit", "green": "SIGKILL", "blue": "segfault", "white": "out of memory"}
COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230), "white": (250, 250, 250)}
GREY = (110, 110, 110)
EATEN_BYTES = 3 << 30


class Fatal(nn.Module):
    channels = 8
    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, (8, 16, 16), stride=(8, 16, 16))

    def features(self, x: Tensor) -> Tensor:
        if not x.is_meta:
            for colour in x.mean(dim=(2, 3, 4)).tolist():
                _meet(colour)
        return torch.relu(self.conv(x)).permute(0, 2, 3, 4, 1)


def build(num_classes: int | None = None) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Fatal()


def _meet(colour: list[float]) -> None:
    high = tuple(value > 0.6 for value in colour)
    found = [name for name, rgb in COLOURS.items() if high == tuple(value > 150 for value in rgb)]
    if not found:
        return
    if reason := os.environ.get(SPARED):
        raise VideoError(reason)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    match DEATHS[found[0]]:
        case "exit":
            os._exit(7)
        case "SIGKILL":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "out of memory":
            eaten = [bytearray(os.urandom(1 << 20)) * 64 for _ in range(EATEN_BYTES >> 26)]
            threading.Event().wait()  # until it is ended for it
            del eaten


def write_coloured_video(path: Path, rgb: tuple[int, int, int], *, frames: int = 20, seed: int = 0) -> None:
    """A 48×40 file of noise around a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for _ in range(frames):
            picture = np.clip(np.array(rgb) + rng.integers(-15, 16, (40, 48, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
