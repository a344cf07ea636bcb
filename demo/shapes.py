"""The look of an event: the possible forms, and how each kind of event moves its form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

# Signed distance to a form's edge, negative inside, at points (u, v) in units of the form's radius.
Form = Callable[[FloatArray, FloatArray], FloatArray]
FORMS: tuple[Form, ...] = (
    lambda u, v: np.hypot(u, v) - 1.0,  # disc
    lambda u, v: np.maximum(abs(u), abs(v)) - 0.85,  # square
    lambda u, v: abs(np.hypot(u, v) - 0.8) - 0.25,  # ring
    lambda u, v: np.maximum(v, 0.866 * abs(u) - 0.5 * v) - 0.6,  # triangle
    lambda u, v: np.maximum(np.minimum(abs(u), abs(v)) - 0.3, np.maximum(abs(u), abs(v)) - 1.0),  # cross
    lambda u, v: abs(u) + abs(v) - 1.15,  # diamond
)

# The own hue of each kind, in the order of the forms: RGB, as differences from grey.
HUES: tuple[tuple[int, int, int], ...] = (
    (90, -60, -60),  # red
    (-60, 70, -60),  # green
    (-60, -40, 100),  # blue
    (80, 70, -80),  # yellow
    (80, -70, 80),  # magenta
    (-80, 60, 60),  # cyan
)

# Position of the form in each frame of an event: (dx, dy) in frame sizes, scale, opacity, computed from the
# event's phase in [0, 1], the frame's number and the direction, +1 or -1.
Motion = Callable[[FloatArray, FloatArray, int], tuple[npt.ArrayLike, ...]]
MOTIONS: dict[str, Motion] = {
    "sweep": lambda phase, frame, sign: (sign * 0.3 * (2 * phase - 1), 0.0, 1.0, 1.0),
    "grow": lambda phase, frame, sign: (0.0, 0.0, 1.2 + sign * 0.7 * (2 * phase - 1), 1.0),
    "orbit": lambda phase, frame, sign: (
        0.18 * np.cos(2 * math.pi * phase),
        sign * 0.18 * np.sin(2 * math.pi * phase),
        1.0,
        1.0,
    ),
    "lift": lambda phase, frame, sign: (0.0, sign * 0.3 * (2 * phase - 1), 1.0, 1.0),
    "blink": lambda phase, frame, sign: (0.0, 0.0, 1.0, frame // 2 % 2 == (sign < 0)),
    "shake": lambda phase, frame, sign: (*(2 * [sign * 0.12 * np.sin(2 * math.pi * frame / 4)]), 1.0, 1.0),
}
KINDS = tuple(MOTIONS)  # the kind at position i has form i and hue i


def pixel_grid(size: int) -> tuple[FloatArray, FloatArray]:
    """Return the pixel centres' (y, x), each (size, size), in frame sizes."""
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    y, x = np.meshgrid(line, line, indexing="ij")
    return y, x


def cover_of(
    form: Form, size: int, centre_x: npt.ArrayLike, centre_y: npt.ArrayLike, radius: npt.ArrayLike
) -> FloatArray:
    """Return the share of each pixel that a moving form covers, float32 (frames, size, size) in [0, 1]."""
    y, x = pixel_grid(size)
    at_x, at_y, scale = (
        np.atleast_1d(np.asarray(value, np.float32))[:, None, None] for value in (centre_x, centre_y, radius)
    )
    distance_pixels = form((x - at_x) / scale, (y - at_y) / scale) * scale * size
    cover: FloatArray = np.clip(0.5 - distance_pixels, 0, 1).astype(np.float32)
    return cover
