"""Work in several processes: results in order, and a clean end whatever ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from faster.errors import StoreError
from faster.runtime.processes import map_in_processes
from signals import interrupts

# Its tasks do what they say; the program ends as `faster` does.
SCRIPT = """
import os, signal, sys, time
from faster.errors import FasterError
from faster.runtime.processes import map_in_processes

def work(task):
    name, _, to = task.partition(" ")
    if name == "wait":
        os.write(1, b"waiting\\n")  # in one piece, as another process writes too
        time.sleep(120)
    if name:
        number = getattr(signal, name)
        {"parent": os.kill, "itself": os.kill, "all": os.killpg}[to](
            {"parent": os.getppid(), "itself": os.getpid(), "all": os.getpgrp()}[to], number
        )
    print("done", flush=True)

if __name__ == "__main__":
    tasks = sys.argv[1].split(",") * int(sys.argv[2]) + [""] * 3000
    try:
        with map_in_processes(work, tasks, processes=2, what_is_kept="all is kept") as results:
            list(results)
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


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_until_the_first_error(processes: int) -> None:
    with map_in_processes(halve, range(0, 60, 2), processes=processes, what_is_kept="all is kept") as results:
        assert list(results) == list(range(30))
    with map_in_processes(halve, [], processes=processes, what_is_kept="all is kept") as results:
        assert not list(results)
    seen = []
    with (
        pytest.raises(StoreError, match="5 is odd"),
        map_in_processes(halve, [2, 4, 5, 6], processes=processes, what_is_kept="all is kept") as results,
    ):
        for result in results:
            seen.append(result)
    assert seen == [1, 2]


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
