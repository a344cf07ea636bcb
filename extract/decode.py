"""Exactly these frames of this video, as pictures, and the clips made of them.

Frame k is the k-th frame that decoding the whole file gives. A frame is decoded once, turned upright, scaled and
cut, whatever the number of clips that hold it; a file that cannot give a frame is a `VideoError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ..errors import UsageError, VideoError
from .clips import ClipPlan, plan_clips, random_clip
from .frames import decode_frames
from .packets import MAX_PIXELS, PacketScan, Probe, orientation, probe, scan
from .transforms import REFERENCE_SIZE, View, centre_transform, centre_view, random_view

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LoadedVideo",
    "Probe",
    "load_clips",
    "load_random_video",
    "probe",
    "read_frames",
]

# Exact rounding, so that pixels do not depend on the processor's vector unit.
_SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


@dataclass(frozen=True, kw_only=True)
class LoadedVideo:
    """M clips of L frames of one video.

    `clips` is uint8 (M, L, size, size, 3), red, green, blue. `starts` (M,) int64 are the clips' first frames in
    the file, `times_seconds` (M,) float64 their times since the file's first frame, `padded` (M,) int64 how many
    frames of each clip repeat the last. `frames` is T, of the segment where one was asked for; `fps` the file's.
    """

    clips: NDArray[np.uint8]
    starts: NDArray[np.int64]
    times_seconds: NDArray[np.float64]
    padded: NDArray[np.int64]
    frames: int
    fps: float


def read_frames(
    path: Path, indices: Sequence[int] | NDArray[np.int64], *, size: int | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index, picture) for each distinct index, ascending, whatever order they were asked in.

    A picture is uint8 (H, W, 3), upright: as large as the video, or with `size` the transform of testing,
    `size` × `size`. Only one is held at a time.

    Raises:
        UsageError: an index that the video does not have.
        VideoError: nothing in the file can be used as a video, or the decoder does not give these frames.
    """
    found = scan(path)
    wanted = np.unique(np.asarray(indices, dtype=np.int64))
    if wanted.size and not 0 <= wanted[0] <= wanted[-1] < found.probe.frames:
        raise UsageError(
            f"{path.name}: frames {wanted[0]} to {wanted[-1]} asked, it has 0 to {found.probe.frames - 1}"
        )
    view_of = None if size is None else partial(centre_view, transform=centre_transform(size))
    draw = _Painter(view_of, size)
    for index, frame in decode_frames(path, found, wanted.tolist()):
        yield index, np.ascontiguousarray(draw(frame))


def load_clips(
    path: Path,
    *,
    clips: int,
    clip_frames: int,
    frame_stride: int = 1,
    size: int = REFERENCE_SIZE,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    out: NDArray[np.uint8] | None = None,
) -> LoadedVideo:
    """The uniform grid of `plan_clips` over a video, in the transform of testing, in one pass over the file.

    With `start_seconds` or `end_seconds` (since the first frame) only frames with start ≤ time < end are the
    video. `out`, uint8 (clips, clip_frames, size, size, 3), is filled instead of a new array.

    Raises:
        UsageError: a count or size below 1, or an `out` that does not fit.
        VideoError: the file cannot be used, the decoder does not give the frames, or the segment holds none.
    """
    view_of = partial(centre_view, transform=centre_transform(size))
    found = scan(path)
    first, frames = _segment(path, found.probe, start_seconds, end_seconds)
    plan = plan_clips(frames, clips=clips, clip_frames=clip_frames, frame_stride=frame_stride)
    return _load(path, found, plan, first, frames, _Painter(view_of, size), _output(out, plan, size))


def load_random_video(
    path: Path,
    *,
    rng: np.random.Generator,
    clip_frames: int,
    frame_stride: int = 1,
    size: int = REFERENCE_SIZE,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    out: NDArray[np.uint8] | None = None,
) -> LoadedVideo:
    """One random clip in one random view of it (§4), as a video of one clip; of a segment too.

    The start is uniform; the shorter side is drawn between `size`·256/224 and `size`·320/224; place of the crop
    and mirroring are random, and the same for all frames.

    Raises:
        UsageError: a count or size below 1, or an `out` that does not fit.
        VideoError: as `load_clips`.
    """
    found = scan(path)
    first, frames = _segment(path, found.probe, start_seconds, end_seconds)
    plan = random_clip(rng, frames, clip_frames=clip_frames, frame_stride=frame_stride)
    view = random_view(rng, found.probe.width, found.probe.height, size)
    upright = (found.probe.width, found.probe.height)

    def view_of(width: int, height: int) -> View:
        if (width, height) != upright:  # the crop was drawn for one size; a change within a clip has no view
            raise VideoError(f"{path.name}: its picture's size changes from {upright} to {(width, height)}")
        return view

    return _load(path, found, plan, first, frames, _Painter(view_of, size), _output(out, plan, size))


def _segment(
    path: Path, probe: Probe, start_seconds: float | None, end_seconds: float | None
) -> tuple[int, int]:
    """The first frame and the number of frames with start ≤ time < end."""
    start = 0.0 if start_seconds is None else start_seconds
    end = np.inf if end_seconds is None else end_seconds
    first, last = np.searchsorted(probe.seconds, [start, end], side="left")
    if first >= last:
        lasts = probe.seconds[-1]
        raise VideoError(
            f"{path.name}: no frame from {start:g} s to {end:g} s; its last frame is at {lasts:g} s"
        )
    return int(first), int(last - first)


def _output(out: NDArray[np.uint8] | None, plan: ClipPlan, size: int) -> NDArray[np.uint8]:
    shape = (*plan.indices.shape, size, size, 3)
    if out is None:
        return np.empty(shape, dtype=np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise UsageError(f"out is {out.dtype} {out.shape}: it must be uint8 {shape}, contiguous")
    return out


def _load(
    path: Path,
    found: PacketScan,
    plan: ClipPlan,
    first: int,
    frames: int,
    draw: _Painter,
    out: NDArray[np.uint8],
) -> LoadedVideo:
    """Decode each frame of the plan once and copy it to all its places; `first` is the plan's frame 0."""
    flat = plan.indices.reshape(-1)
    places = np.argsort(flat, kind="stable")
    wanted, begins = np.unique(flat[places], return_index=True)
    pixels = out.reshape(flat.size, *out.shape[2:])  # a view, as `out` is contiguous
    ends = [*begins[1:].tolist(), flat.size]
    for number, (_, frame) in enumerate(decode_frames(path, found, (wanted + first).tolist())):
        here = places[begins[number] : ends[number]]
        pixels[here] = draw(frame)
    return LoadedVideo(
        clips=out,
        starts=plan.starts + first,
        times_seconds=found.probe.seconds[plan.starts + first],
        padded=plan.padded,
        frames=frames,
        fps=found.probe.fps,
    )


class _Painter:
    """Turns decoded frames into upright pictures: scaled by FFmpeg, cut by numpy."""

    def __init__(self, view_of: Callable[[int, int], View] | None, size: int | None) -> None:
        self._view_of = view_of
        self._size = size
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """The frame's picture, uint8 (H, W, 3), not contiguous; valid until the frame goes."""
        transpose, flip_rows, flip_columns = orientation(frame)
        width, height = (frame.height, frame.width) if transpose else (frame.width, frame.height)
        view = (
            self._view_of(width, height) if self._view_of else View(width=width, height=height, left=0, top=0)
        )
        if view.width * view.height > MAX_PIXELS:
            raise VideoError(f"a picture of {width}×{height} is too long and thin to be scaled")
        stored = (view.height, view.width) if transpose else (view.width, view.height)
        scaled = self._scaler.reformat(
            frame, width=stored[0], height=stored[1], format="rgb24", interpolation=_SCALING, threads=1
        )
        picture = cast("NDArray[np.uint8]", scaled.to_ndarray())
        if transpose:
            picture = picture.transpose(1, 0, 2)
        picture = picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        if self._size is not None:
            picture = picture[view.top : view.top + self._size, view.left : view.left + self._size]
        return picture[:, ::-1] if view.flip else picture
