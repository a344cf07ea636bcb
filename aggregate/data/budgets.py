"""Many budgets, one aggregator: what `--pattern any` draws from, and is reported on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .mix import Mix
from .pattern import ALL_CHEAP, ALL_EXPENSIVE, Pattern

BUDGETS_FOLDER = "budgets"  # in a run folder
_GROUPS = (2, 4, 8, 16, 32)  # 1:1 to 1:31, as in Table 4


def budgets(mix: Mix) -> list[Mix]:
    """Every mixture that an aggregator of any pattern serves, by N and then by cost, the dearest first.

    N is 2, 4, 8, … below the mix's own N, and that. To each belong all-E, of 1:1, 1:3, 1:7, 1:15 and 1:31 those that it has
    clips for, and all-C.
    """
    return [_on(mix, pattern, clips) for pattern, clips in drawn_from(mix.clips)]


def drawn_from(most: int) -> list[tuple[Pattern, int]]:
    """The pattern and N of each of these mixtures, of up to `most` clips."""
    return [(pattern, clips) for clips in _lengths(most) for pattern in _patterns(clips)]


def draw(mix: Mix, videos: int, rng: np.random.Generator) -> tuple[int, NDArray[np.int64]]:
    """N of one step, and which model each clip of each video is of, (videos, N): patterns video by video, all alike likely."""
    clips = int(rng.choice(_lengths(mix.clips)))
    masks = np.stack([pattern.expensive_mask(clips) for pattern in _patterns(clips)])
    return clips, (~masks[rng.integers(len(masks), size=videos)]).astype(np.int64)


def budget_name(pattern: Pattern, clips: int) -> str:
    """The name of a mixture's files: 1-7-n32."""
    return f"{pattern.in_names}-n{clips}"


def _on(mix: Mix, pattern: Pattern, clips: int) -> Mix:
    dear, cheap = pattern.counts(clips)
    return replace(
        mix,
        pattern=pattern,
        clips=clips,
        expensive=mix.expensive if dear else None,
        cheap=mix.cheap if cheap else None,
        drawn=False,
    )


def _lengths(most: int) -> list[int]:
    return [2**k for k in range(1, most.bit_length()) if 2**k < most] + [most]


def _patterns(clips: int) -> list[Pattern]:
    mixed = [Pattern(expensive=1, cheap=size - 1) for size in _GROUPS if size <= clips]
    return [ALL_EXPENSIVE, *mixed, ALL_CHEAP]
