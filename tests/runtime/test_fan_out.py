"""Work on several workers: each result once, in order where that is asked, and a clean end whatever ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from faster.errors import Interrupted, ProvenanceMismatch, StoreError
from faster.runtime import fan_out
from faster.runtime.dask_cluster import LOCAL
from faster.runtime.fan_out import map_units, run_units
from signals import interrupts

# Its tasks do what they say; the program ends as `faster` does.
SCRIPT = """
import os, signal, sys, time
from faster.errors import FasterError
from faster.runtime.fan_out import map_units

def work(task):
    name, _, to = task.partition(" ")
    if name == "wait":
        os.write(1, b"waiting\\n")  # in one piece, as another process writes too
        time.sleep(120)
    while not name and not os.path.exists(__file__ + ".begun"):
        time.sleep(0.001)  # the others are not done before the first begins, however slow its process is to start
    if name:
        open(__file__ + ".begun", "w").close()
        number = getattr(signal, name)
        {"parent": os.kill, "itself": os.kill, "all": os.killpg}[to](
            {"parent": os.getppid(), "itself": os.getpid(), "all": os.getpgrp()}[to], number
        )
    print("done", flush=True)

if __name__ == "__main__":
    tasks = sys.argv[1].split(",") * int(sys.argv[2]) + [""] * 3000
    try:
        map_units(work, tasks, workers=2, what_is_kept="all is kept")
    except KeyboardInterrupt:
        sys.exit(130)
    except FasterError as error:
        print(f"faster: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
"""


def halve(number: int) -> float:
    if number % 2:
        raise StoreError(f"{number} is odd")
    return number / 2


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_until_the_first_error(workers: int) -> None:
    done: list[None] = []
    kept = {"what_is_kept": "all is kept", "on_done": lambda: done.append(None)}
    assert map_units(halve, range(0, 60, 2), workers=workers, **kept) == list(range(30))  # type: ignore[arg-type]
    assert len(done) == 30
    assert not map_units(halve, [], workers=workers, **kept)  # type: ignore[arg-type]
    done.clear()
    with pytest.raises(StoreError, match="5 is odd"):
        map_units(halve, [2, 4, 5, *range(0, 2000, 2)], workers=workers, **kept)  # type: ignore[arg-type]
    assert len(done) < 500 and (workers > 1 or len(done) == 2)


class Counter:
    """A worker that says where it is, how many units it has had, and, unit by unit, what it was given."""

    def __init__(self, folder: Path, place: int) -> None:
        self.folder, self.place, self.units = folder, place, 0
        self.note("opened")

    def run(self, unit: str, report: Callable[[tuple[int, int, str]], object]) -> None:
        self.units += 1
        for letter in unit:
            report((self.place, self.units, letter))
        if unit == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == "fail":
            raise KeyError(unit)
        if unit == "wait":
            time.sleep(120)

    def close(self) -> None:
        self.note("closed")

    def note(self, what: str) -> None:
        (self.folder / f"{what} {self.place} {os.getpid()}").touch()


def notes(folder: Path) -> dict[str, set[str]]:
    """The processes in which workers were opened, and closed."""
    found: dict[str, set[str]] = {"opened": set(), "closed": set()}
    for file in folder.iterdir():
        found[file.name.split()[0]].add(file.name.split()[2])
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_is_opened_once_and_its_results_come_as_it_makes_them(tmp_path: Path, workers: int) -> None:
    seen: list[tuple[int, int, str]] = []
    units = ["ab", "cd", "ef", "gh", "ij"]
    run_units(units, tmp_path, Counter, seen.append, workers=workers, what_is_kept="all is kept")
    assert sorted(letter for _, _, letter in seen) == list("abcdefghij")
    assert seen[:1] == [(0, 1, "a")] or workers == 2
    for place in range(workers):
        own = [(number, letter) for at, number, letter in seen if at == place]
        assert [number for number, _ in own] == [n for n in range(1, len(own) // 2 + 1) for _ in range(2)]
        assert own[0] == (1, "ac"[place])  # the first units go to workers in the order of their places
    there = notes(tmp_path)
    assert len(there["opened"]) == workers and there["opened"] == there["closed"]
    assert (str(os.getpid()) in there["opened"]) == (workers == 1)


def test_more_workers_than_units_are_not_started(tmp_path: Path) -> None:
    run_units(["a", "b"], tmp_path, Counter, lambda result: None, workers=5, what_is_kept="all is kept")
    assert len(notes(tmp_path)["opened"]) == 2


def test_a_death_and_a_failure_name_the_process_and_end_the_others(tmp_path: Path) -> None:
    def run(unit: str) -> None:
        run_units(
            ["wait", unit],
            tmp_path,
            Counter,
            lambda result: None,
            workers=2,
            what_is_kept="all is kept",
            name=lambda place: f"the process at {place}",
        )

    began = time.monotonic()
    with pytest.raises(
        Interrupted, match=r"the process at 1 was killed.*; all is kept, run the same command"
    ):
        run("die")
    with pytest.raises(RuntimeError, match=r"(?s)the process at 1 failed:.*KeyError: 'fail'"):
        run("fail")
    assert time.monotonic() - began < 100  # who waits was not waited for
    there = notes(tmp_path)
    assert len(there["opened"] - there["closed"]) == 1  # all but the killed one are stopped in good order
    for process in there["opened"]:
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_who_cannot_open_is_heard(tmp_path: Path, workers: int) -> None:
    """However large the units are that wait for it."""
    with pytest.raises((FileNotFoundError, RuntimeError), match=r"opened [01]"):
        run_units(
            ["x" * 10_000_000] * 2,
            tmp_path / "missing",
            Counter,
            lambda result: None,
            workers=workers,
            what_is_kept="all is kept",
        )


def test_what_the_caller_raises_at_a_result_ends_the_workers(tmp_path: Path) -> None:
    def refuse(result: object) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        run_units(["wait", "wait"], tmp_path, Counter, refuse, workers=2, what_is_kept="all is kept")
    there = notes(tmp_path)
    assert there["opened"] == there["closed"]


def test_dask_workers_keep_what_is_open_and_must_have_this_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    seen: list[tuple[int, int, str]] = []

    def spread(setup: Path, report: Callable[[tuple[int, int, str]], object] = seen.append) -> None:
        run_units(["ab", "cd", "ef"], setup, Counter, report, workers=1, what_is_kept="kept", cluster=LOCAL)

    spread(tmp_path)
    assert sorted(letter for _, _, letter in seen) == list("abcdef")
    assert sorted({number for _, number, _ in seen}) == [1, 2, 3]
    assert len(notes(tmp_path)["opened"]) == 1
    monkeypatch.setattr(fan_out, "__version__", "0.0.9")
    with pytest.raises(ProvenanceMismatch, match=r"has faster .*, this process 0.0.9"):
        spread(tmp_path)


def run(script: Path, task: str, *, ignored: bool = False) -> subprocess.CompletedProcess[str]:
    with interrupts(ignored=ignored):
        return subprocess.run(
            [sys.executable, str(script), task, "1"],
            capture_output=True,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=60,  # of every process that holds the pipes
            check=False,
        )


@pytest.mark.parametrize(
    ("task", "code", "said"),
    [
        ("SIGKILL itself", 75, "faster: a process was killed"),
        ("SIGTERM parent", 75, "faster: stopped by SIGTERM; all is kept, run the same command again"),
        ("SIGUSR1 all", 75, "faster: stopped by SIGUSR1; all is kept"),  # as a batch system may do
        ("SIGUSR2 all", 75, "faster: stopped by SIGUSR2; all is kept"),
        ("SIGTERM all", 75, "faster: "),  # which is told, the signal or the death of a process, is open
        ("SIGINT all", 130, ""),  # as a terminal does
    ],
)
def test_every_stop_ends_it_all_in_one_line(tmp_path: Path, task: str, code: int, said: str) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    ended = run(script, task)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith(said) and ended.stderr.count("\n") == bool(said), ended.stderr
    assert ended.stdout.count("done") < 3000


def test_in_the_background_ctrl_c_reaches_nobody(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    ended = run(script, "SIGINT all", ignored=True)
    assert (ended.returncode, ended.stderr, ended.stdout.count("done")) == (0, "", 3001)
    ended = run(script, "SIGTERM parent", ignored=True)
    assert ended.returncode == 75 and ended.stderr.startswith("faster: stopped by SIGTERM"), ended.stderr


def test_no_process_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), "wait", "2"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["waiting\n"] * 2
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)  # until no process has the pipe any more; the tasks take two minutes
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
