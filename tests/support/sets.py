"""Small labelled sets of real videos whose classes differ in what a network can see: brightness."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def write_bright_video(path: Path, *, level: int, frames: int, seed: int) -> None:
    """A 48×40 H.264 file of noise around a grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 40, "yuv420p"
        for _ in range(frames):
            picture = np.clip(level + rng.integers(-20, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def make_bright_set(root: Path, *, per_class: int = 6, tests: int = 2) -> Path:
    """Class folders below train/ and test/: "dark" and "light" videos of 20 to 25 frames."""
    for label, level in (("dark", 60), ("light", 190)):
        for i in range(per_class):
            part = "test" if i < tests else "train"
            write_bright_video(
                root / part / label / f"{label} {i}.mp4", level=level, frames=20 + i, seed=level + i
            )
    return root
