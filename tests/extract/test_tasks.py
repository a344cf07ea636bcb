"""A task of an array knows its shards by their numbers alone."""

from __future__ import annotations

import pytest
from faster.errors import UsageError
from faster.extract.tasks import TaskShare, array_indices


@pytest.mark.parametrize("count", [1, 2, 7, 64, 200])
def test_every_shard_is_one_task_s(count: int) -> None:
    shares = [TaskShare.parse(f"{index}/{count}", {}) for index in range(count)]
    for shard in range(100):
        assert sum(share.holds(shard) for share in shares) == 1


def slurm(task: int, count: int, first: int) -> dict[str, str]:
    return {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(count),
        "SLURM_ARRAY_TASK_MIN": str(first),
    }


@pytest.mark.parametrize(
    ("task", "count", "first", "index"), [(0, 4, 0, 0), (3, 4, 0, 3), (1, 4, 1, 0), (10, 6, 5, 5)]
)
def test_auto_is_the_place_in_slurm_s_array(task: int, count: int, first: int, index: int) -> None:
    assert TaskShare.parse("auto", slurm(task, count, first)) == TaskShare(index=index, count=count)


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("4/4", {}, "the last one of 4 is 3/4"),
        ("0/0", {}, "counted from 0"),
        ("-1/4", {}, "say it as 3/64"),
        ("3", {}, "say it as 3/64"),
        ("auto", {}, "no task of a Slurm array"),
        ("auto", slurm(17, 2, 3), "SLURM_ARRAY_TASK_ID/N"),  # sbatch --array=3,17: of how many, nobody says
    ],
)
def test_what_says_no_share_is_refused(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TaskShare.parse(text, environment)


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([5], "5"), ([0, 1, 2], "0-2"), ([9, 3, 4, 3, 1], "1,3-4,9")]
)
def test_array_indices(numbers: list[int], text: str) -> None:
    assert array_indices(numbers) == text
