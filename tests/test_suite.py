"""What `make test` promises of itself: a crash or a hang is one failure with a name, and the run ends."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

TESTS = """
import ctypes, os, signal, subprocess, sys, threading
import pytest

def test_passes_before(): pass

def test_is_killed(): os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.timeout(1)
def test_waits_for_ever(): threading.Event().wait()

def test_passes_between(): pass

@pytest.mark.timeout(1)
def test_waits_for_ever_in_native_code():
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    ctypes.PyDLL(None).pause()  # and keeps the interpreter's lock

@pytest.mark.timeout(1)
def test_waits_for_ever_as_it_cleans_up_after_a_failure(request):
    request.addfinalizer(threading.Event().wait)
    raise ValueError("failed")

def test_leaves_a_process_and_crashes():
    code = "import fcntl, os, time; file = open(os.environ['LEFT']); fcntl.flock(file, fcntl.LOCK_EX);"
    code += "print(flush=True); time.sleep(100_000)"
    subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True).stdout.read(1)
    os.abort()

def test_passes_last(): pass
"""


def test_crashes_and_hangs_are_failures_with_names_and_the_run_ends(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "test_it.py").write_text(TESTS)
    shutil.copy(ROOT / "tests/conftest.py", folder)
    left = tmp_path / "left"
    left.touch()
    command = ["make", "--dry-run", "--no-print-directory", "--assume-old", ".venv/.installed", "test"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (options,) = re.findall(r" -m pytest (.*)", said)
    changed = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-o", "watchdog_seconds=4"]
    changed += ["-p", "no:cacheprovider", "-p", "no:zarr"]  # whose plugin imports the whole library
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *shlex.split(options), "-rA", str(folder), *changed],
        env={**os.environ, "LEFT": str(left)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    ends = {
        name: end for end, name in re.findall(r"^(FAILED|ERROR|PASSED) \S+::(\w+)", run.stdout, re.MULTILINE)
    }
    assert set(ends) == set(re.findall(r"def (test_\w+)", TESTS)), run.stdout + run.stderr
    assert {name for name, end in ends.items() if end == "PASSED"} == {
        name for name in ends if "passes" in name
    }
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "Timeout (>1.0s)" in run.stdout and "Timeout (0:00:05)!" in run.stderr
    with left.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # which the process that was left held


def test_a_part_of_ci_that_fails_or_hangs_is_said_and_the_others_are_run(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    commands = {
        ".ci/wheel_alone": "touch wheel_alone",
        "make": '[ "$*" = test ] && exec sleep 100000; [ "$*" != stress ]',
        # A second is enough of what hangs; all else has its time.
        "timeout": f'[ "$*" = "--kill-after=30s 20m make test" ] && set -- 1 make test; exec {shutil.which("timeout")} "$@"',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "CI": "true", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    table = re.findall(r"^(\w.*?)  +\d+ s  (.*)$", run.stdout, re.MULTILINE)
    assert table == [
        ("set up", "passed"),
        ("check", "passed"),
        ("test", "FAILED (not done in 20 minutes)"),
        ("docs", "passed"),
        ("numeric, AVX2", "passed"),
        ("numeric, AVX2, 2 threads", "passed"),
        ("stress", "FAILED (1)"),
        ("wheel", "passed"),
        ("wheel alone", "passed"),
        ("all", "FAILED"),
    ]
    assert (tmp_path / "wheel_alone").exists()


@pytest.mark.parametrize(("words", "named"), [("ISA=avx", "avx2"), ("THREADS=3", "1 and 2")])
def test_make_says_what_it_does_not_know(words: str, named: str) -> None:
    said = subprocess.run(["make", "--dry-run", "test", words], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 2 and named in said.stderr
