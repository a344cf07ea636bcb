"""Many budgets with one aggregator: the mixtures that `--pattern any` draws from and reports on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .mix import Mix
from .pattern import ALL_CHEAP, ALL_EXPENSIVE, Pattern

BUDGETS_FOLDER = "budgets"  # in a run folder
_GROUPS = (2, 4, 8, 16, 32)  # 1:1 to 1:31, as in Table 4


def budgets(mix: Mix) -> list[Mix]:
    """Return every mixture for an aggregator of any pattern, by N and then by cost, the most expensive first.

    N is 2, 4, 8, … below the mix's own N, and this N itself. For each N: all-E, those of 1:1, 1:3, 1:7, 1:15
    and 1:31 that fit into N clips, and all-C.
    """
    return [_on(mix, pattern, clips) for pattern, clips in drawn_from(mix.clips)]


def drawn_from(most: int) -> list[tuple[Pattern, int]]:
    """Return the pattern and N of each of these mixtures, of up to `most` clips."""
    return [(pattern, clips) for clips in _lengths(most) for pattern in _patterns(clips)]


def draw(mix: Mix, videos: int, rng: np.random.Generator) -> tuple[int, NDArray[np.int64]]:
    """Draw N for one step, and the model of each clip of each video, (videos, N).

    Patterns are drawn per video, with equal probability.
    """
    clips = int(rng.choice(_lengths(mix.clips)))
    masks = np.stack([pattern.expensive_mask(clips) for pattern in _patterns(clips)])
    return clips, (~masks[rng.integers(len(masks), size=videos)]).astype(np.int64)


def budget_name(pattern: Pattern, clips: int) -> str:
    """Return the name of a mixture's files, such as 1-7-n32."""
    return f"{pattern.in_names}-n{clips}"


def _on(mix: Mix, pattern: Pattern, clips: int) -> Mix:
    expensive, cheap = pattern.counts(clips)
    return replace(
        mix,
        pattern=pattern,
        clips=clips,
        expensive=mix.expensive if expensive else None,
        cheap=mix.cheap if cheap else None,
        drawn=False,
    )


def _lengths(most: int) -> list[int]:
    return [2**k for k in range(1, most.bit_length()) if 2**k < most] + [most]


def _patterns(clips: int) -> list[Pattern]:
    mixed = [Pattern(expensive=1, cheap=size - 1) for size in _GROUPS if size <= clips]
    return [ALL_EXPENSIVE, *mixed, ALL_CHEAP]
