"""Full batches of clips: the last clips of one video share a batch with the next one's first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import VideoError
from ..backbones.inference.frozen import FrozenBackbone

HostMapsAndLogits = tuple[NDArray[np.float16], NDArray[np.float32] | None]
FloatT = TypeVar("FloatT", np.float16, np.float32)
# Called once per video: its maps and logits, or the reason why it has none.
Deliver = Callable[[int, HostMapsAndLogits | VideoError], None]


@dataclass(kw_only=True, eq=False)
class _Video:
    """A video in progress."""

    row: int
    added: int = 0
    computed: int = 0
    ended: bool = False
    parts: list[HostMapsAndLogits] = field(default_factory=list)
    error: VideoError | None = None


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Consecutive clips of a video; `first` is the number of the first one."""

    video: _Video
    first: int
    clips: Tensor


class VideoBatches:
    """Gather clips of consecutive videos into full passes of the network, and deliver each video's results.

    A clip's result has the same bits as alone, because all passes have one shape. If the network cannot map a
    video's clips (a value is not finite or too large), only that video fails.
    """

    def __init__(self, network: FrozenBackbone, deliver: Deliver) -> None:
        self._network = network
        self._deliver = deliver
        self._videos: dict[int, _Video] = {}
        self._gathered: list[_Piece] = []
        self._size = 1  # clips of a pass; known with the first clips

    def add(self, row: int, clips: Tensor) -> None:
        """Add clips (n, L, H, W, 3) uint8 of a video, n ≥ 1. The caller may overwrite them afterwards."""
        video = self._videos.setdefault(row, _Video(row=row))
        if video.error is not None:
            return
        self._size = size = self._network.pass_clips(clips.shape[1], max(clips.shape[2:4]))
        begin = 0
        if self._gathered:
            begin = min(self._room(), len(clips))
            self._gather(video, clips[:begin])
        full = begin + (len(clips) - begin) // size * size
        if full > begin:
            self._run([self._piece(video, clips[begin:full])])
        if full < len(clips):
            self._gather(video, clips[full:])

    def end(self, row: int) -> None:
        """End a video: it is delivered when all its clips are computed."""
        self._videos[row].ended = True
        self._settle(self._videos[row])

    def fail(self, row: int, error: VideoError) -> None:
        """Mark a video as failed and drop its results."""
        video = self._videos.setdefault(row, _Video(row=row))
        video.error, video.ended = video.error or error, True
        self._settle(video)

    def flush(self) -> None:
        """Compute the gathered clips, in a pass that the network pads."""
        if self._gathered:
            pieces, self._gathered = self._gathered, []
            self._run(pieces)

    def _room(self) -> int:
        return self._size - sum(len(piece.clips) for piece in self._gathered)

    def _piece(self, video: _Video, clips: Tensor) -> _Piece:
        first, video.added = video.added, video.added + len(clips)
        return _Piece(video=video, first=first, clips=clips)

    def _gather(self, video: _Video, clips: Tensor) -> None:
        self._gathered.append(self._piece(video, clips.clone()))
        if not self._room():
            self.flush()

    def _run(self, pieces: Sequence[_Piece]) -> None:
        clips = pieces[0].clips if len(pieces) == 1 else torch.cat([piece.clips for piece in pieces])
        try:
            maps, logits = self._network(clips, first_clip=pieces[0].first)
        except VideoError as error:
            if len(pieces) > 1:  # run one by one to find whose clips failed
                for piece in pieces:
                    self._run([piece])
                return
            pieces[0].video.error = error
            self._settle(pieces[0].video)
            return
        end = 0
        for piece in pieces:
            begin, end = end, end + len(piece.clips)
            piece.video.computed += len(piece.clips)
            piece.video.parts.append((maps[begin:end], None if logits is None else logits[begin:end]))
            self._settle(piece.video)

    def _settle(self, video: _Video) -> None:
        """Deliver a video if nothing more of it is to come."""
        if not video.ended or video.row not in self._videos:
            return
        if video.error is not None:
            del self._videos[video.row]
            self._deliver(video.row, video.error)
        elif video.computed == video.added:
            del self._videos[video.row]
            maps, logits = zip(*video.parts, strict=True)
            scores = [part for part in logits if part is not None]
            self._deliver(video.row, (_joined(maps), _joined(scores) if scores else None))


def _joined(parts: Sequence[NDArray[FloatT]]) -> NDArray[FloatT]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
