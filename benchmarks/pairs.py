"""Ratios in one run: the machine's speed drifts, so what is compared is timed in turns, and the ratio taken turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Speed against the reference: median over the turns, and the middle half of them."""

    median: float
    low: float
    high: float
    turns: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def time_turns(
    contenders: Mapping[str, Callable[[int], object]],
    *,
    turns: int,
    warm_ups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each contender in each turn, in an order that rotates.

    Each is called with a number that it never had before: who takes other data for each finds none of it in the
    processor's caches, where the contender before has left its own. `warm_ups` calls of each come first.
    """
    names = list(contenders)
    for name in names:
        for number in range(warm_ups):
            contenders[name](number)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    number = warm_ups
    for turn in range(turns):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            began = clock()
            contenders[name](number)
            seconds[name].append(clock() - began)
            number += 1
    return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, reference: str, *, work: float = 1.0) -> Ratio:
    """How many times as fast as the reference; `work` is how much of its work a turn of `name` does."""
    each = sorted(work * b / a for a, b in zip(seconds[name], seconds[reference], strict=True))
    low, _, high = statistics.quantiles(each, n=4)
    return Ratio(median=statistics.median(each), low=low, high=high, turns=len(each))
