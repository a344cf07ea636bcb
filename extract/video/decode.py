"""The exact frames of a video as pictures, and the clips made of them.

Frame k is the k-th frame that decoding the complete file gives. A frame is decoded, turned upright, scaled
and cut once, even if many clips hold it. A file that cannot give a frame is a `VideoError`. Clips can come in
parts, so that memory does not grow with their number.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError, VideoError
from .frames import decode_frames
from .packets import PacketScan, Probe, probe, scan
from .pictures import Painter
from .sampling import ClipPlan, plan_clips, random_clip
from .transforms import (
    REFERENCE_SIZE,
    View,
    ViewDraw,
    centre_transform,
    centre_view,
    random_view,
    scaled_size,
)

if TYPE_CHECKING:
    pass

__all__ = [
    "LoadedVideo",
    "Probe",
    "load_clips",
    "load_random_video",
    "probe",
    "read_frames",
    "read_scaled",
    "stream_clips",
]


@dataclass(frozen=True, kw_only=True)
class LoadedVideo:
    """M clips of L frames of one video, or of a part of it; `more` says that another part follows.

    `clips` is uint8 (M, L, size, size, 3), red, green, blue. `starts` (M,) int64 are the clips' first frames
    in the file. `times_seconds` (M,) float64 are their times since the file's first frame. `padded` (M,)
    int64 is how many frames of each clip repeat the last one. `frames` is T, of the segment if one was
    requested; `fps` is the file's. `views` (M,) int64 is each clip's view, None if all have the same.
    `decode_seconds` is the decoding time so far. `left_out` frames at the file's start need pictures from
    before it; frames and times count from the one behind them.
    """

    clips: NDArray[np.uint8]
    starts: NDArray[np.int64]
    times_seconds: NDArray[np.float64]
    padded: NDArray[np.int64]
    frames: int
    fps: float
    more: bool = False
    views: NDArray[np.int64] | None = None
    decode_seconds: float = 0.0
    left_out: int = 0


def read_frames(
    path: Path, indices: Sequence[int] | NDArray[np.int64], *, size: int | None = None
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (index, picture) for each distinct index, ascending, for any order of `indices`.

    A picture is uint8 (H, W, 3), upright: as large as the video, or `size` × `size` by the transform of
    testing. Only one is in memory at a time.

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
    painter = Painter(view_of, size)
    for index, frame in decode_frames(path, found, wanted.tolist()):
        yield index, np.ascontiguousarray(painter(frame))


def read_scaled(
    path: Path, *, short_side: int, start_seconds: float | None = None, end_seconds: float | None = None
) -> tuple[tuple[int, int, int], Iterator[NDArray[np.uint8]]]:
    """Return (T, height, width) of a video or segment, and its T complete pictures in order.

    A picture is uint8 (height, width, 3), upright, with shorter side `short_side`; it is valid until the next
    one is requested.

    Raises:
        VideoError: as `load_clips`, or the pictures' size changes; also while the pictures are read.
    """
    found = scan(path)
    first, frames = _segment(path, found.probe, start_seconds, end_seconds)
    upright = (found.probe.width, found.probe.height)
    width, height = scaled_size(*upright, short_side)

    def view_of(*size: int) -> View:
        if size != upright:
            raise VideoError(f"{path.name}: its picture's size changes from {upright} to {size}")
        return View(width=width, height=height, left=0, top=0)

    painter, video = Painter(view_of, None), range(first, first + frames)
    pictures = (painter(frame) for _, frame in decode_frames(path, found, video, video=video))
    return (frames, height, width), pictures


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
    """Load the uniform clips of `plan_clips` from a video, with the transform of testing, in one pass.

    With `start_seconds` or `end_seconds` (since the first frame), the video consists of the frames with start
    ≤ time < end. `out`, uint8 (clips, clip_frames, size, size, 3), is filled instead of a new array.

    Raises:
        UsageError: a count or size below 1, or an `out` that does not fit.
        VideoError: the file cannot be used, the decoder does not give the frames, or the segment holds none.
    """
    if out is not None and len(out) != clips:
        raise UsageError(f"out has room for {len(out)} clips: it must be {clips}")
    parts = stream_clips(
        path,
        out=out,
        clips=clips,
        clip_frames=clip_frames,
        frame_stride=frame_stride,
        size=size,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
    )
    return next(parts)


def stream_clips(
    path: Path,
    *,
    clips: int,
    clip_frames: int,
    frame_stride: int = 1,
    size: int = REFERENCE_SIZE,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    views: Sequence[ViewDraw] = (),
    out: NDArray[np.uint8] | None,
) -> Generator[LoadedVideo, NDArray[np.uint8], None]:
    """Yield the clips of `load_clips` in parts, in order and in one pass, for a video of any length.

    Each part fills the beginning of `out`, uint8 (any number, clip_frames, size, size, 3); the caller then
    sends the next `out`. Outside `out`, only the frames that a part shares with the one before are kept. The
    last part comes when the rest of the video has been checked: until then a `VideoError` may end it. With
    `out` None, all clips are one part.

    With `views` there are `clips` clips of each view, still in one pass, in the order of their starts; the
    parts give the view of each clip. Without it, all clips have the centre view.

    Raises:
        UsageError, VideoError: as `load_clips`, at the first part or a later one.
    """
    began = time.perf_counter()
    draws = views or (ViewDraw(short_side=centre_transform(size).short_side),)
    painters = [Painter(partial(draw.view_of, size=size), size) for draw in draws]
    found = scan(path)
    first, frames = _segment(path, found.probe, start_seconds, end_seconds)
    plans = [
        plan_clips(
            frames, clips=clips, clip_frames=clip_frames, frame_stride=frame_stride, offset=draw.offset
        )
        for draw in draws
    ]
    view_of_clip = np.repeat(np.arange(len(draws)), clips)
    starts, indices, padded = (
        np.concatenate([getattr(plan, name) for plan in plans]) for name in ("starts", "indices", "padded")
    )
    order = np.argsort(starts, kind="stable")
    plan = ClipPlan(starts=starts[order], indices=indices[order], padded=padded[order])
    video = range(first, first + frames)
    yield from _load(path, found, plan, video, painters, view_of_clip[order], size, out, began=began)


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
    """Load one random clip in one random view of a video or segment (§4), as a video of one clip.

    The start is uniform. The shorter side is drawn between `size`·256/224 and `size`·320/224. The place of
    the crop and the mirroring are random, and the same for all frames.

    Raises:
        UsageError: a count or size below 1, or an `out` that does not fit.
        VideoError: as `load_clips`.
    """
    began = time.perf_counter()
    found = scan(path)
    first, frames = _segment(path, found.probe, start_seconds, end_seconds)
    plan = random_clip(rng, frames, clip_frames=clip_frames, frame_stride=frame_stride)
    view = random_view(rng, found.probe.width, found.probe.height, size)
    upright = (found.probe.width, found.probe.height)

    def view_of(width: int, height: int) -> View:
        if (width, height) != upright:  # the crop was drawn for this size only
            raise VideoError(f"{path.name}: its picture's size changes from {upright} to {(width, height)}")
        return view

    if out is not None and len(out) != 1:
        raise UsageError(f"out has room for {len(out)} clips: it must be 1")
    video = range(first, first + frames)
    painters, views = [Painter(view_of, size)], np.zeros(1, dtype=np.int64)
    return next(_load(path, found, plan, video, painters, views, size, out, began=began, sparse=True))


def _segment(
    path: Path, probe: Probe, start_seconds: float | None, end_seconds: float | None
) -> tuple[int, int]:
    """Return the first frame and the number of frames with start ≤ time < end."""
    start = 0.0 if start_seconds is None else start_seconds
    end = np.inf if end_seconds is None else end_seconds
    first, last = np.searchsorted(probe.seconds, [start, end], side="left")
    if first >= last:
        lasts = probe.seconds[-1]
        raise VideoError(
            f"{path.name}: no frame from {start:g} s to {end:g} s; its last frame is at {lasts:g} s"
        )
    return int(first), int(last - first)


def _load(
    path: Path,
    found: PacketScan,
    plan: ClipPlan,
    video: range,
    painters: Sequence[Painter],
    views: NDArray[np.int64],
    size: int,
    out: NDArray[np.uint8] | None,
    *,
    began: float,
    sparse: bool = False,
) -> Generator[LoadedVideo, NDArray[np.uint8], None]:
    """Decode each frame of the plan once and copy it to all its places, a part of the clips at a time.

    `video` are the frames of the file that the plan counts from 0. Clip i has view `views[i]`, which has a
    painter. The clips' starts ascend. `began` is the start of loading by `time.perf_counter`.
    """
    clips, clip_frames = plan.indices.shape
    shape = (clip_frames, size, size, 3)
    # A picture is a frame in a view: one number encodes both, and ascends with the frame.
    count = len(painters)
    pictures = (plan.indices + video.start) * count + views[:, None]
    needed = np.unique(pictures)
    wanted = np.unique(needed // count)
    decoded = decode_frames(path, found, wanted.tolist(), video=video, sparse=sparse)
    kept: dict[int, NDArray[np.uint8]] = {}
    done, spent = 0, 0.0
    while True:
        if out is None:
            out = np.empty((clips, *shape), dtype=np.uint8)
        if out.shape[1:] != shape or not len(out) or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise UsageError(
                f"out is {out.dtype} {out.shape}: it must be uint8 (clips, "
                f"{', '.join(map(str, shape))}), contiguous"
            )
        part = slice(done, min(done + len(out), clips))
        done = part.stop
        # Later clips need the frames from here on.
        later = int(plan.starts[done]) + video.start if done < clips else video.stop
        here = out[: done - part.start]
        pixels = here.reshape(-1, *shape[1:])
        places = dict(_places(pictures[part].reshape(-1)))
        for picture in places.keys() & kept.keys():
            pixels[places.pop(picture)] = kept[picture]
        kept = {picture: image for picture, image in kept.items() if picture >= later * count}
        while places:
            index, frame = next(decoded)
            begin, end = np.searchsorted(needed, [index * count, (index + 1) * count])
            for picture in needed[begin:end].tolist():
                image = painters[picture - index * count](frame)
                if picture in places:
                    pixels[places.pop(picture)] = image
                if index >= later:
                    kept[picture] = image.copy()
        if done == clips:
            for _ in decoded:  # the rest of the video is in no clip, but it is checked
                raise AssertionError("frames beyond the last clip were asked for")
        spent += time.perf_counter() - began
        out = yield LoadedVideo(
            clips=here,
            starts=plan.starts[part] + video.start,
            times_seconds=found.probe.seconds[plan.starts[part] + video.start],
            padded=plan.padded[part],
            frames=len(video),
            fps=found.probe.fps,
            more=done < clips,
            views=views[part] if count > 1 else None,
            decode_seconds=spent,
            left_out=found.probe.left_out,
        )
        if done == clips:
            return
        began = time.perf_counter()


def _places(indices: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each distinct index, ascending, with the places that hold it."""
    places = np.argsort(indices, kind="stable")
    distinct, begins = np.unique(indices[places], return_index=True)
    for index, begin, end in zip(
        distinct.tolist(), begins.tolist(), [*begins[1:].tolist(), len(indices)], strict=True
    ):
        yield index, places[begin:end]
