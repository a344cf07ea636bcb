"""Small real videos for tests: every frame carries its own number, readable after encoding, scaling and centre crop."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import av.video
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
NUMBER_BITS = 12
# tkhd matrices (a, b, u, c, d, v, x, y, w) that turn the stored picture clockwise by so many degrees.
_MATRICES = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def make_video(
    path: Path,
    *,
    frames: int = 40,
    width: int = 64,
    height: int = 48,
    fps: int = 25,
    codec: str = "libx264",
    numbered: bool = True,
    number: int | None = None,
    rotation: int = 0,
    timestamps_ms: Sequence[int] | None = None,
    keyframe_interval: int = 12,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write one video and return its path; the container follows from the path's suffix.

    `width` and `height` are the picture's as shown. With `rotation` (clockwise degrees that a player turns
    the picture by, .mp4 and .mov only) the pictures are stored turned back, so that a reader that applies it
    sees them upright. `timestamps_ms` gives each frame its own time, for a variable frame rate. With
    `numbered` a frame's picture says its index (see `frame_number`), or `number`, the same in all; else it is a
    drifting texture. `options` go to the encoder.
    """
    if rotation and path.suffix not in {".mp4", ".mov"}:
        raise ValueError("only .mp4 and .mov can carry a rotation here")
    time_base = Fraction(1, fps) if timestamps_ms is None else Fraction(1, 1000)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.video.VideoStream)
        stream.width, stream.height = (height, width) if rotation in (90, 270) else (width, height)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = keyframe_interval
        stream.codec_context.bit_rate = 4_000_000
        stream.time_base = stream.codec_context.time_base = time_base
        quality: dict[str, object] = (
            {"crf": "16", "preset": "veryfast", "bf": "2"} if codec == "libx264" else {}
        )
        stream.options = {**quality, **(options or {})}
        for index in range(frames):
            shown = index if number is None else number
            picture = (number_picture if numbered else texture_picture)(shown, width, height)
            stored = np.ascontiguousarray(np.rot90(picture, rotation // 90))
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24")
            frame.pts = index if timestamps_ms is None else timestamps_ms[index]
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if rotation:
        _write_rotation(path, rotation)
    return path


def frame_number(rgb: NDArray[np.uint8]) -> int:
    """Read the number that `make_video` drew, from a picture (H, W, 3) uint8, whole or cropped at its centre."""
    sector, radius = _polar(rgb.shape[1], rgb.shape[0])
    ring = (radius > 0.2) & (radius < 0.5)
    light = rgb.astype(np.float64).mean(axis=2)
    bits = [light[ring & (sector == bit)].mean() > 128 for bit in range(NUMBER_BITS)]
    return sum(int(value) << bit for bit, value in enumerate(bits))


def number_picture(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """The picture (height, width, 3) of a number: bit k lights sector k of the circle, clockwise from the left."""
    if not 0 <= number < 1 << NUMBER_BITS:
        raise ValueError(f"number {number} does not fit {NUMBER_BITS} bits")
    sector, _ = _polar(width, height)
    lit = (number >> sector) & 1
    return np.where(lit[..., None] == 1, (250, 240, 200), (10, 20, 60)).astype(np.uint8)


def texture_picture(index: int, width: int, height: int) -> NDArray[np.uint8]:
    """A coloured pattern (height, width, 3) that drifts with the index and looks alike nowhere."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + index / 3), np.sin(y / 7 - index / 4), np.sin((x + 2 * y) / 11 + index / 5)]
    return (127.5 + 110 * np.stack(waves, axis=2)).astype(np.uint8)


def _polar(width: int, height: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Sector and radius (in shorter sides) of every pixel: both survive scaling and a centre crop."""
    y, x = np.mgrid[:height, :width]
    dy, dx = y - (height - 1) / 2, x - (width - 1) / 2
    turn = (np.arctan2(dy, dx) + np.pi) / (2 * np.pi)
    return (turn * NUMBER_BITS).astype(np.int64) % NUMBER_BITS, np.hypot(dy, dx) / min(width, height)


def _write_rotation(path: Path, rotation: int) -> None:
    data = bytearray(path.read_bytes())
    a, b, c, d = _MATRICES[rotation]
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of version, flags and times
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(bytes(data))


def sequential(path: Path) -> list[NDArray[np.uint8]]:
    """The plain way: decode the whole file, turn each picture as its frame says."""
    scaler = VideoReformatter()
    pictures = []
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            picture = scaler.reformat(frame, format="rgb24", interpolation=SCALING, threads=1).to_ndarray()
            pictures.append(np.rot90(picture, frame.rotation // 90))
    return pictures
