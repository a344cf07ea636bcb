"""How a file says that its pictures are turned or mirrored to be shown."""

from __future__ import annotations

from typing import Any

import av.video
import numpy as np
from av.buffer import Buffer
from av.sidedata.sidedata import Type

from ...errors import VideoError

_RIGHT_ANGLE = 1000  # a matrix that is a thousand times more upright, or turned, than slanted is rounded


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a stored picture is turned to be shown: (transpose, flip rows, flip columns), in this order.

    Raises:
        VideoError: turned by an angle that is no multiple of 90°, or by none at all: the header is damaged.
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
    # A rotation's rows are at right angles, and neither is zero.
    if not (a or b) or not (c or d) or abs(a * c + b * d) * 100 > a * a + b * b:
        raise VideoError(f"the rotation in its header makes no sense (a matrix of {a}, {b}, {c}, {d})")
    raise VideoError(f"turned by {frame.rotation}°: only multiples of 90° are applied")


def _unknown_type(kind: type[Type], value: Any) -> Type:
    member = object.__new__(kind)
    member._name_ = f"UNKNOWN_{value}"
    member._value_ = value
    return member


# PyAV refuses all that lies beside a picture where it does not know the type of one thing (views of MV-HEVC, and whatever
# decoders will attach next). Nobody asks for such a thing: it gets a name.
Type._missing_ = classmethod(_unknown_type)  # type: ignore[assignment,method-assign]
