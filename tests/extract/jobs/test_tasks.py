"""A task of an array knows its shards by their numbers alone, and may be run again in every way."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from extractor import Extractor
from faster.errors import UsageError
from faster.extract.jobs.status import status
from faster.extract.jobs.tasks import TaskShare, array_indices
from sets import make_bright_set


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
        ("auto", {**slurm(0, 4, 0), "SLURM_ARRAY_TASK_ID": "1" * 5000}, "no task of a Slurm array"),
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


MODEL = "r2d14-w4"
COMMAND = ["--model", MODEL, "--allow-random", "--devices", "cpu", "--clips", "2", "--size", "32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    make_bright_set(folder / "videos")
    return folder


@pytest.fixture(scope="module")
def runs(place: Path) -> Iterator[tuple[Extractor, Extractor]]:
    """Two that run at once, of stores with six shards of two videos each."""
    arguments = ["extract", str(place / "videos"), *COMMAND]
    with Extractor(arguments, shard_videos=2) as one, Extractor(arguments, shard_videos=2) as other:
        yield one, other


@pytest.fixture(scope="module")
def whole(place: Path, runs: tuple[Extractor, Extractor]) -> dict[str, bytes]:
    """The files of a store that one command made."""
    assert runs[0].run(place / "whole.zarr").code == 0
    return files_of(place / "whole.zarr")


def files_of(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def do(runner: Extractor, store: Path, task: str) -> set[int]:
    """Run one task to its end; the shards that it began."""
    run = runner.run(store, "--task", task)
    assert run.code == 0, run
    return {shard for _, shard in run.shards_begun()}


def test_a_task_alone_does_its_shards_and_run_again_does_nothing(
    runs: tuple[Extractor, Extractor], tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    assert do(runs[0], store, "1/3") == {1, 4}
    before = files_of(store)
    assert do(runs[0], store, "1/3") == set()
    assert files_of(store) == before
    assert status(store).lacking == (0, 2, 3, 5)


def test_another_count_later_does_what_is_left(
    runs: tuple[Extractor, Extractor], whole: dict[str, bytes], tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    assert do(runs[0], store, "1/3") == {1, 4}
    assert do(runs[0], store, "0/2") == {0, 2}
    assert not (store / "failures.jsonl").exists()  # the last task consolidates, not each
    assert do(runs[0], store, "1/2") == {3, 5}
    assert files_of(store) == whole


def test_a_task_twice_at_once_makes_every_shard_once(
    runs: tuple[Extractor, Extractor], whole: dict[str, bytes], tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    for task in ("0/2", "1/2"):
        with ThreadPoolExecutor(2) as pool:
            begun = list(pool.map(lambda runner: do(runner, store, task), runs))  # noqa: B023 - called at once
        assert begun[0] | begun[1] == {shard for shard in range(6) if shard % 2 == int(task[0])}
    assert files_of(store) == whole


def test_a_killed_task_is_completed_by_the_others_of_another_array(
    runs: tuple[Extractor, Extractor], whole: dict[str, bytes], tmp_path: Path
) -> None:
    store = tmp_path / "s.zarr"
    killed = runs[0].run(store, "--task", "0/2", kill_at=("link before", 8))
    assert killed.code == -9
    done = {shard for task in ("0/3", "1/3", "2/3") for shard in do(runs[0], store, task)}
    assert done and done | {0, 2, 4} == set(range(6))
    found = files_of(store)
    assert {name: data for name, data in found.items() if not name.endswith(".tmp")} == whole
