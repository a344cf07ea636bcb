"""The views of a video: the centre view of testing, and augmented ones, each drawn from (seed, video, view) alone.

What is drawn fits a picture of any size and a video of any length, so a view can be told again without the file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from .transforms import REFERENCE_SIZE, TRAIN_SHORT_SIDES, View, centre_transform, scaled_size


@dataclass(frozen=True, kw_only=True)
class ViewDraw:
    """How one view of one video is taken.

    Attributes:
        short_side: pixels that the picture's shorter side is scaled to.
        across, down: where the crop lies, from 0 (left, top) to below 1 (right, bottom); None is the centre.
        flip: whether it is mirrored.
        offset: how far the grid of clips is moved, from 0 to below 1 of the distance from clip to clip.
    """

    short_side: int
    across: float | None = None
    down: float | None = None
    flip: bool = False
    offset: float = 0.0

    def view_of(self, width: int, height: int, size: int) -> View:
        """The part of a picture of `width` × `height` pixels, upright, that is kept: `size` × `size` pixels."""
        scaled_width, scaled_height = scaled_size(width, height, self.short_side)
        return View(
            width=scaled_width,
            height=scaled_height,
            left=_place(scaled_width - size, self.across),
            top=_place(scaled_height - size, self.down),
            flip=self.flip,
        )


def draw_view(video: str, view: int, *, seed: int, size: int) -> ViewDraw:
    """View `view` of the video with that id, for frames of `size` × `size` pixels.

    View 0 is the centre view (§4: shorter side 256, centre crop 224). The others are drawn as in training (§4): shorter
    side uniform from 256 to 320 (of 224; other sizes scale both), crop anywhere, mirrored half of the time; and the grid of
    clips is moved by a uniform share of the distance from clip to clip.
    """
    if view == 0:
        return ViewDraw(short_side=centre_transform(size).short_side)
    name = int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "little")
    rng = np.random.default_rng([seed, view, name])
    shortest, longest = short_sides(size)
    return ViewDraw(
        short_side=int(rng.integers(shortest, longest + 1)),
        across=float(rng.random()),
        down=float(rng.random()),
        flip=bool(rng.integers(2)),
        offset=float(rng.random()),
    )


def short_sides(size: int) -> tuple[int, int]:
    """The least and the largest shorter side of an augmented view."""
    shortest, longest = (round(size * side / REFERENCE_SIZE) for side in TRAIN_SHORT_SIDES)
    return shortest, longest


def _place(room: int, share: float | None) -> int:
    return room // 2 if share is None else int(share * (room + 1))
