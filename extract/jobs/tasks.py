"""Shards distributed by number: the shards of one task of a job array, without communication."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from ...errors import UsageError

_TASK = re.compile(r"([0-9]{1,7})/([0-9]{1,7})")


@dataclass(frozen=True, kw_only=True)
class TaskShare:
    """The share of task `index` of `count`: the shards with number modulo `count` equal to `index`.

    Any task may run again, alone, twice at once, or with another count: complete shards are skipped. If two
    tasks make the same shard, the second one keeps the first one's.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"--task {self.index}/{self.count}: tasks are counted from 0, so the last one of "
                f"{self.count} is {self.count - 1}/{self.count}"
            )

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str]) -> Self:
        """Parse "3/64", or for "auto" read the environment variables of Slurm's array.

        Raises:
            UsageError: it is neither; or "auto" outside an array, or in an array of which not all tasks were
                submitted, because its numbers then do not give the count of the others.
        """
        if text != "auto":
            match = _TASK.fullmatch(text)
            if not match:
                raise UsageError(f"--task {text}: say it as 3/64, the fourth of 64 tasks, or as auto")
            return cls(index=int(match[1]), count=int(match[2]))
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
        values = [environment.get(name, "") for name in names]
        if not all(re.fullmatch("[0-9]{1,18}", value) for value in values):
            raise UsageError(
                "--task auto reads SLURM_ARRAY_TASK_ID, _COUNT and _MIN, and this is no task of a Slurm "
                "array; say it as --task 3/64"
            )
        task, count, first = (int(value) for value in values)
        if not 0 <= task - first < count:
            raise UsageError(
                f"--task auto: task {task} of an array of {count} that begins "
                f"at {first} has gaps before it, so its "
                f"number says nothing; say --task $SLURM_ARRAY_TASK_ID/N, with the N of the whole array"
            )
        return cls(index=task - first, count=count)

    def holds(self, shard: int) -> bool:
        """Whether a shard belongs to this task."""
        return shard % self.count == self.index


def array_indices(numbers: Iterable[int]) -> str:
    """Format numbers as Slurm writes an array: "0-2,7"."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
