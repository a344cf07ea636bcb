"""Kills at random moments of an extraction: what is left is always whole, and a rerun completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sets import make_bright_set

KILLS = 20


def files_of(store: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and not p.name.endswith(".tmp")
    }


@pytest.mark.stress
def test_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    """kill -9 of the whole process group, at moments drawn over an uninterrupted run's duration."""
    videos = make_bright_set(tmp_path / "videos", per_class=40, tests=4)
    command = [
        sys.executable,
        "-m",
        "faster.cli",
        "extract",
        str(videos),
        "--allow-random",
        "--devices",
        "cpu",
    ]
    command += ["--model", "r2d14-w4", "--model", "r2plus1d14-w4", "--clips", "4", "--size", "32", "--store"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(store: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, str(store)],
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    began = time.monotonic()
    assert start(tmp_path / "whole.zarr").wait() == 0
    duration = time.monotonic() - began
    whole = files_of(tmp_path / "whole.zarr")
    moments = np.random.default_rng(0).uniform(0.1, 1.0, KILLS) * duration
    killed = 0
    for i, moment in enumerate(moments):
        store = tmp_path / f"killed{i}.zarr"
        process = start(store)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        assert start(store).wait() == 0
        assert files_of(store) == whole, f"kill {i} at {moment:.2f} s of {duration:.2f} s"
    print(
        f"\n{killed} kills over {duration:.1f} s runs: every rerun ended bit-identical to the uninterrupted run"
    )
    assert killed >= KILLS // 2
