"""Decoded frames as pictures: turned upright as the file says, scaled and cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import av
import av.video
import numpy as np
from av.buffer import Buffer
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from ...errors import VideoError
from .containers import MAX_PIXELS
from .transforms import (
    View,
)

_RIGHT_ANGLE = 1000  # a matrix that is a thousand times more upright, or turned, than slanted is rounded


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return how a stored picture is turned: (transpose, flip rows, flip columns), in this order.

    Raises:
        VideoError: the angle is not a multiple of 90°, or the matrix is no rotation: the header is damaged.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, Buffer):
        return False, False, False
    # x' = a·x + c·y, y' = b·x + d·y, in fixed point
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32, count=5).tolist()
    along, across = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(b), abs(c)) * _RIGHT_ANGLE < along:
        return False, d < 0, a < 0
    if max(abs(a), abs(d)) * _RIGHT_ANGLE < across:
        return True, b < 0, c < 0
    # A rotation's rows are orthogonal, and neither is zero.
    if not (a or b) or not (c or d) or abs(a * c + b * d) * 100 > a * a + b * b:
        raise VideoError(f"the rotation in its header makes no sense (a matrix of {a}, {b}, {c}, {d})")
    raise VideoError(f"turned by {frame.rotation}°: only multiples of 90° are applied")


def _unknown_type(kind: type[Type], value: Any) -> Type:
    member = object.__new__(kind)
    member._name_ = f"UNKNOWN_{value}"
    member._value_ = value
    return member


# PyAV refuses all side data of a picture if it does not know the type of one item (views of MV-HEVC, and
# types of future decoders). Such items are not used here: they get a name.
Type._missing_ = classmethod(_unknown_type)  # type: ignore[assignment,method-assign]


# Exact rounding, so that pixels do not depend on the processor's vector unit.
SCALING = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class Painter:
    """Turns decoded frames into upright pictures: scaled by FFmpeg, cut by numpy."""

    def __init__(self, view_of: Callable[[int, int], View] | None, size: int | None) -> None:
        self._view_of = view_of
        self._size = size
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Return the frame's picture, uint8 (H, W, 3), not contiguous; valid as long as the frame."""
        transpose, flip_rows, flip_columns = orientation(frame)
        width, height = (frame.height, frame.width) if transpose else (frame.width, frame.height)
        view = (
            self._view_of(width, height) if self._view_of else View(width=width, height=height, left=0, top=0)
        )
        if view.width * view.height > MAX_PIXELS:
            raise VideoError(f"a picture of {width}×{height} is too long and thin to be scaled")
        stored = (view.height, view.width) if transpose else (view.width, view.height)
        scaled = self._scaler.reformat(
            frame, width=stored[0], height=stored[1], format="rgb24", interpolation=SCALING, threads=1
        )
        picture = cast("NDArray[np.uint8]", scaled.to_ndarray())
        if transpose:
            picture = picture.transpose(1, 0, 2)
        picture = picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        if self._size is not None:
            picture = picture[view.top : view.top + self._size, view.left : view.left + self._size]
        return picture[:, ::-1] if view.flip else picture
