"""Patterns: which of a video's clips are expensive, the paper's #E:#C."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...terminal.suggest import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ANY = "any"  # instead of a pattern: training draws one per video


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """`expensive` clips, then `cheap` clips, repeated (FASTER §5, Table 4).

    The last group may be cut, and still starts with its expensive clips. Table 3, where only the first of N
    clips is expensive, is 1:(N−1).
    With `drawn` it is "any": training draws a pattern for each video. It takes both models, as 1:1 does.
    """

    expensive: int
    cheap: int
    drawn: bool = False

    def __post_init__(self) -> None:
        if self.expensive < 0 or self.cheap < 0 or self.expensive + self.cheap == 0:
            raise UsageError(f"pattern {self} names no clip; write #E:#C as in 1:7, or all-E, or all-C")

    @staticmethod
    def parse(text: str, *also: str) -> Pattern:
        """Parse "1:7", "all-E" or "all-C", and "any" if `also` has it. Raises UsageError for other text."""
        if text in also:
            return Pattern(expensive=1, cheap=1, drawn=True)
        known = {"all-e": ALL_EXPENSIVE, "all-c": ALL_CHEAP}
        if text.lower() in known:
            return known[text.lower()]
        match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", text, flags=re.ASCII)
        if match is None:
            forms = ", or ".join(["#E:#C as in 1:7", "all-E", "all-C", *also])
            two = re.fullmatch(r"\s*(\d{1,6})\s*\D{1,3}\s*(\d{1,6})\s*", text, flags=re.ASCII)
            hint = (
                f"; did you mean {two[1]}:{two[2]}?" if two else did_you_mean(text, ["all-E", "all-C", *also])
            )
            raise UsageError(f"pattern {text!r} is not understood; write {forms}{hint}")
        expensive, cheap = int(match[1]), int(match[2])
        if not expensive or not cheap:  # 3:0 is all-E
            expensive, cheap = min(expensive, 1), min(cheap, 1)
        return Pattern(expensive=expensive, cheap=cheap)

    def __str__(self) -> str:
        if self.drawn:
            return ANY
        if self.cheap == 0 < self.expensive:
            return "all-E"
        if self.expensive == 0 < self.cheap:
            return "all-C"
        return f"{self.expensive}:{self.cheap}"

    @property
    def in_names(self) -> str:
        """The form in file names, such as 1-7."""
        return str(self).replace(":", "-")

    def expensive_mask(self, n: int) -> NDArray[np.bool_]:
        """Return which of n clips, in time order, are expensive: (n,) bool."""
        import numpy as np  # here, so that costs do not need numpy

        return np.arange(n) % (self.expensive + self.cheap) < self.expensive

    def counts(self, n: int) -> tuple[int, int]:
        """Return how many of n clips are expensive, and how many cheap."""
        groups, rest = divmod(n, self.expensive + self.cheap)
        n_expensive = groups * self.expensive + min(rest, self.expensive)
        return n_expensive, n - n_expensive


ALL_EXPENSIVE = Pattern(expensive=1, cheap=0)
ALL_CHEAP = Pattern(expensive=0, cheap=1)
