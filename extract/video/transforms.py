"""The geometry of the paper's views (§4): shorter side and crop in testing and training, and normalisation.

Testing: the shorter side is scaled to 256 and the central 224×224 is cut. Training: the shorter side is drawn
from 256 to 320, and a random 224×224 is cut and flipped half of the time. Other sizes scale both. The
augmented views of an extraction are drawn from (seed, video, view) alone. A draw fits pictures of any size
and videos of any length, so a view can be computed again without the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UsageError

if TYPE_CHECKING:  # decoder processes import this module; they need no torch
    import torch

TEST_SHORT_SIDE = 256
TRAIN_SHORT_SIDES = (256, 320)
REFERENCE_SIZE = 224


@dataclass(frozen=True, kw_only=True)
class Transform:
    """The transform of every frame of a view: scale the shorter side, cut `size` × `size` pixels.

    The shorter side is scaled to `short_side`. The transform is a part of a store's provenance, as `to_dict`
    writes it.
    """

    size: int
    short_side: int
    crop: str = "centre"
    interpolation: str = "bilinear"

    def to_dict(self) -> dict[str, int | str]:
        """Return the fields as JSON types."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class View:
    """The kept part of a picture: scaled to (`width`, `height`), cut at (`left`, `top`), perhaps flipped."""

    width: int
    height: int
    left: int
    top: int
    flip: bool = False


def check_size(size: int) -> int:
    """Return `size` itself.

    Raises:
        UsageError: a picture cannot have that size.
    """
    if size < 1:
        raise UsageError(f"a size of {size} pixels: it must be 1 or more (the paper's is {REFERENCE_SIZE})")
    return size


def centre_transform(size: int = REFERENCE_SIZE) -> Transform:
    """Return the test transform for `size` × `size` pixels: shorter side `size`·256/224, centre crop."""
    return Transform(size=check_size(size), short_side=round(size * TEST_SHORT_SIDE / REFERENCE_SIZE))


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return (width, height) with the shorter side scaled to `short_side`, in the same proportions."""
    shorter = min(width, height)
    return round(width * short_side / shorter), round(height * short_side / shorter)


def centre_view(width: int, height: int, transform: Transform) -> View:
    """Return the central view of a picture of `width` × `height` pixels."""
    scaled_width, scaled_height = scaled_size(width, height, transform.short_side)
    return View(
        width=scaled_width,
        height=scaled_height,
        left=(scaled_width - transform.size) // 2,
        top=(scaled_height - transform.size) // 2,
    )


def random_view(rng: np.random.Generator, width: int, height: int, size: int) -> View:
    """Draw a random view, `size` × `size` pixels large, of a picture of `width` × `height` pixels (§4)."""
    shortest, longest = (round(check_size(size) * side / REFERENCE_SIZE) for side in TRAIN_SHORT_SIDES)
    short_side = int(rng.integers(shortest, longest + 1))
    scaled_width, scaled_height = scaled_size(width, height, short_side)
    return View(
        width=scaled_width,
        height=scaled_height,
        left=int(rng.integers(scaled_width - size + 1)),
        top=int(rng.integers(scaled_height - size + 1)),
        flip=bool(rng.integers(2)),
    )


def normalise(clips: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Normalise (B, L, H, W, 3) uint8 to (B, 3, L, H, W) float32, (pixel/255 − mean)/std, on its device.

    `mean` and `std` are per channel (red, green, blue), for pixels between 0 and 1.
    """
    # Convert to float after the channels are moved: moving uint8 is a quarter of the bytes.
    pixels = clips.permute(0, 4, 1, 2, 3).contiguous().float()
    shift = pixels.new_tensor(mean).mul_(255).view(1, 3, 1, 1, 1)
    scale = pixels.new_tensor(std).mul_(255).view(1, 3, 1, 1, 1)
    return pixels.sub_(shift).div_(scale)


@dataclass(frozen=True, kw_only=True)
class ViewDraw:
    """The drawn values of one view of one video.

    Attributes:
        short_side: pixels that the picture's shorter side is scaled to.
        across, down: place of the crop, from 0 (left, top) to below 1 (right, bottom); None is the centre.
        flip: whether it is mirrored.
        offset: shift of all clips, from 0 to below 1 of the distance from clip to clip.
    """

    short_side: int
    across: float | None = None
    down: float | None = None
    flip: bool = False
    offset: float = 0.0

    def view_of(self, width: int, height: int, size: int) -> View:
        """Return the kept part of an upright picture of `width` × `height` pixels: `size` × `size`."""
        scaled_width, scaled_height = scaled_size(width, height, self.short_side)
        return View(
            width=scaled_width,
            height=scaled_height,
            left=_place(scaled_width - size, self.across),
            top=_place(scaled_height - size, self.down),
            flip=self.flip,
        )


def draw_view(video: str, view: int, *, seed: int, size: int) -> ViewDraw:
    """Draw view `view` of the video with that id, for frames of `size` × `size` pixels.

    View 0 is the centre view (§4: shorter side 256, centre crop 224). The others are drawn as in training
    (§4): shorter side uniform from 256 to 320 (for 224; other sizes scale both), crop anywhere, mirrored half
    of the time. All clips are moved by a uniform share of the distance from clip to clip.
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
    """Return the least and the largest shorter side of an augmented view."""
    shortest, longest = (round(size * side / REFERENCE_SIZE) for side in TRAIN_SHORT_SIDES)
    return shortest, longest


def _place(room: int, share: float | None) -> int:
    return room // 2 if share is None else int(share * (room + 1))
