"""Seeded mutants of small videos, and a decoder's job that loads one and checks what it got against plain decoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from faster.extract.video.decode import LoadedVideo, load_clips, read_frames
from numpy.typing import NDArray
from videos import make_video

PARENTS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"preset": "veryfast", "bf": "2"}},
    "mpeg4.mov": {"codec": "mpeg4", "options": {"bf": "1"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "mjpeg.avi": {"codec": "mjpeg"},
}
FRAMES = 24
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def make_parents(folder: Path) -> dict[str, bytes]:
    """A small sound video of each kind, by name."""
    return {
        name: make_video(folder / name, frames=FRAMES, keyframe_interval=8, **how).read_bytes()
        for name, how in PARENTS.items()
    }


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, numbers at their limits; ranges zeroed, filled, cut out, doubled, swapped; the end lost.

    A third of the places lie in the first or last kilobyte, where the headers and indices are.
    """
    mutant = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        size = len(mutant)
        if size < 16:
            break
        at = int(rng.integers(size))
        if rng.random() < 1 / 3:
            at = int(rng.integers(min(1024, size)))
            at = at if rng.random() < 0.5 else size - 1 - at
        length = min(int(2 ** rng.uniform(0, 10)), size - at)
        match int(rng.integers(9)):
            case 0 | 1:
                for place in rng.integers(at, at + length, size=min(8, length)):
                    mutant[place] ^= 1 << int(rng.integers(8))
            case 2:
                mutant[at : at + length] = rng.bytes(length)
            case 3:
                mutant[at : at + length] = bytes(length)
            case 4:
                width = int(rng.choice([1, 2, 4, 8]))
                value = int(rng.choice(_EXTREMES)) & ((1 << 8 * width) - 1)
                mutant[at : at + width] = value.to_bytes(width, "big" if rng.random() < 0.5 else "little")
            case 5:
                del mutant[at : at + length]
            case 6:
                mutant[at:at] = mutant[at : at + length]
            case 7:
                other = int(rng.integers(size - length + 1))
                piece = mutant[at : at + length]
                mutant[at : at + length] = mutant[other : other + length]
                mutant[other : other + length] = piece
            case _:
                if rng.random() < 0.3:
                    del mutant[at:]
    return bytes(mutant)


def load_and_compare(path: Path, *, out: NDArray[np.uint8], **arguments: Any) -> LoadedVideo:
    """`load_clips`; where it succeeds, every frame must equal plain decoding, which must give what the packets promise.

    Raises AssertionError, which the pool hands over as the reason.
    """
    video = load_clips(path, out=out, **arguments)
    promised = given = 0
    found = read_frames(path, range(video.frames))
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        assert isinstance(stream, av.VideoStream)
        stream.codec_context.thread_count = 1
        pictures = []
        for packet in container.demux(stream):
            if packet.size:
                promised += not packet.is_discard
                pictures += packet.decode()
        pictures += stream.codec_context.decode(None)
        for frame in pictures:
            given += 1
            assert not frame.is_corrupt, "a damaged frame was called ok"
            _, picture = next(found)
            wanted = np.rot90(frame.to_ndarray(format="rgb24", interpolation=_SCALING), frame.rotation // 90)
            np.testing.assert_array_equal(picture, wanted)
    assert given >= promised, f"plain decoding gave {given} of {promised} frames, and it was called ok"
    assert given == video.frames, f"plain decoding gave {given} frames, we say {video.frames}"
    return video


_SCALING = av.video.reformatter.Interpolation.BILINEAR | (
    av.video.reformatter.Interpolation.ACCURATE_RND | av.video.reformatter.Interpolation.BITEXACT
)
