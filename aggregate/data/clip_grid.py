"""Which of a store's M clips an evaluation or a training step takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError


def uniform_subset(grid: int, clips: int) -> tuple[NDArray[np.int64], bool]:
    """Choose `clips` of the `grid` clips of a view, spread over the complete video (§4, testing).

    If `clips` divides `grid`, these are clips j·grid/clips. They start at the frames that a grid of `clips`
    alone would give, and the second value is True. Otherwise they are the nearest clips of the grid, and it
    is False, so that the caller can report this.

    Returns:
        (clips,) int64, increasing; and whether they are exact.

    Raises:
        UsageError: `clips` is not between 1 and `grid`.
    """
    _check(grid, clips)
    if grid % clips == 0:
        return np.arange(clips, dtype=np.int64) * (grid // clips), True
    return (2 * np.arange(clips, dtype=np.int64) * grid + clips) // (2 * clips), False


def random_subset(rng: np.random.Generator, grid: int, clips: int) -> NDArray[np.int64]:
    """Draw `clips` of the `grid` clips without replacement, in time order (§4, training).

    Returns:
        (clips,) int64, increasing.

    Raises:
        UsageError: `clips` is not between 1 and `grid`.
    """
    _check(grid, clips)
    return np.sort(rng.choice(grid, size=clips, replace=False)).astype(np.int64)


def _check(grid: int, clips: int) -> None:
    if not 1 <= clips <= grid:
        raise UsageError(f"{clips} clips asked of a store that holds {grid} a video; allowed: 1 to {grid}")
