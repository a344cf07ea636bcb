"""The frames of each clip: uniform clips for testing, and one random clip for backbone training.

A video has T frames, a clip L of them. Clip i of M starts at frame min(⌊i·T/M⌋, T − span), where a clip's
span is (L − 1)·stride + 1 frames. 256 frames in 32 clips of 8 lie end to end; clips of shorter videos
overlap; a video shorter than a clip repeats its last frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """The frames of M clips.

    They are `starts` (M,), `indices` (M, L), and `padded` (M,), the number of repeated frames of each clip.
    All are int64; indices are in [0, T).
    """

    starts: NDArray[np.int64]
    indices: NDArray[np.int64]
    padded: NDArray[np.int64]


def plan_clips(
    frames: int, *, clips: int, clip_frames: int, frame_stride: int = 1, offset: float = 0.0
) -> ClipPlan:
    """Return the uniform plan: `clips` clips of `clip_frames` frames over a video of `frames` frames.

    `offset`, in [0, 1), moves all clips by that share of the distance from clip to clip.

    Raises:
        UsageError: a count below 1.
    """
    _check_counts(frames=frames, clips=clips)
    latest = _latest_start(frames, clip_frames, frame_stride)
    starts = np.minimum((np.arange(clips, dtype=np.int64) * frames + int(offset * frames)) // clips, latest)
    return _plan(starts, frames, clip_frames, frame_stride)


def random_clip(
    rng: np.random.Generator, frames: int, *, clip_frames: int, frame_stride: int = 1
) -> ClipPlan:
    """Return one clip at a random place, with every start equally likely (§4: backbone training).

    Raises:
        UsageError: a count below 1.
    """
    start = random_start(rng, frames, clip_frames=clip_frames, frame_stride=frame_stride)
    return _plan(np.array([start], dtype=np.int64), frames, clip_frames, frame_stride)


def random_start(rng: np.random.Generator, frames: int, *, clip_frames: int, frame_stride: int = 1) -> int:
    """Return the first frame of one random clip: uniform over the starts that fit, 0 if none fits.

    Raises:
        UsageError: a count below 1.
    """
    _check_counts(frames=frames)
    return int(rng.integers(_latest_start(frames, clip_frames, frame_stride) + 1))


def _plan(starts: NDArray[np.int64], frames: int, clip_frames: int, frame_stride: int) -> ClipPlan:
    indices = starts[:, None] + np.arange(clip_frames, dtype=np.int64) * frame_stride
    padded = (indices >= frames).sum(axis=1, dtype=np.int64)
    return ClipPlan(starts=starts, indices=np.minimum(indices, frames - 1), padded=padded)


def _latest_start(frames: int, clip_frames: int, frame_stride: int) -> int:
    _check_counts(clip_frames=clip_frames, frame_stride=frame_stride)
    return max(frames - ((clip_frames - 1) * frame_stride + 1), 0)


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"{name} is {value}: it must be 1 or more")
