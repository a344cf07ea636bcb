"""The job script under Slurm itself, on this one machine: an array that is requeued, warned and preempted ends whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import real_slurm
from faster.extract.jobs.status import status
from faster.store.write import create as writer
from real_slurm import ask, wait_for
from sets import make_bright_set

pytestmark = [
    pytest.mark.stress,
    pytest.mark.skipif(bool(real_slurm.lacks()), reason=real_slurm.lacks() or "Slurm is here"),
]
MODEL = "r2d26"
OPTIONS = ["--model", MODEL, "--allow-random", "--clips", "32", "--devices", "cpu", "--batch-clips", "4"]
TASKS = 3


def faster(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "faster.cli", *arguments]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_an_array_that_is_requeued_warned_and_preempted_makes_the_whole_store(tmp_path: Path) -> None:
    make_bright_set(tmp_path / "videos", per_class=12)
    for name in ("s.zarr", "alone.zarr"):
        writer.create(tmp_path / name, shard_videos=2)  # twelve shards of 24 videos
    setup = "export OMP_NUM_THREADS=1"
    submit = ["submit", "slurm", "--tasks", str(TASKS), "--gpus", "0", "--cpus", "1", "--memory", "1G"]
    submit += ["--partition", "low", "--time", "30", "--setup", setup, "--go", "--", "videos", *OPTIONS]
    with real_slurm.cluster(tmp_path / "slurm") as environment:
        said = faster(tmp_path, environment, *submit, "--store", "s.zarr")
        job = said.partition("Submitted batch job ")[2].split()[0]
        logs = [tmp_path / f"s.zarr.logs/{job}_{task}.log" for task in range(TASKS)]

        def text(task: int) -> str:
            return logs[task].read_text(errors="replace") if logs[task].exists() else ""

        def working() -> list[int]:
            """The tasks that have begun with their shards and not left yet."""
            return [
                task
                for task in range(TASKS)
                if text(task).count("to do in") > text(task).count("stopped by") + text(task).count("next:")
            ]

        def stop(task: int, *command: str) -> None:
            """Stop a task that is working, and wait until it has left."""
            before = text(task).count("stopped by")
            subprocess.run(command, env=environment, check=True, capture_output=True)
            wait_for(lambda: text(task).count("stopped by") > before, f"task {task} leaving")

        wait_for(lambda: 0 in working(), "work of task 0")
        stop(0, "scontrol", "requeue", f"{job}_0")
        wait_for(lambda: 1 in working(), "work of task 1")
        stop(1, "scancel", "--signal=USR1", "--batch", f"{job}_1")  # as before the time limit
        wait_for(working, "work of any task")
        stop(working()[0], "sbatch", "-p", "high", "-n", "2", "-o", "/dev/null", "--wrap", "true")
        wait_for(lambda: not ask(environment, "squeue", "-h"), "the end of all jobs", seconds=240)
        assert all("next:" in text(task) for task in range(TASKS)), "\n".join(map(text, range(TASKS)))
    everything = "".join(map(text, range(TASKS)))
    assert "stopped by SIGTERM" in everything and "stopped by SIGUSR1" in everything
    assert "Traceback" not in everything
    assert status(tmp_path / "s.zarr").complete
    assert not list((tmp_path / "s.zarr").rglob("*.tmp"))
    faster(
        tmp_path,
        {**environment, "OMP_NUM_THREADS": "1"},
        "extract",
        "videos",
        *OPTIONS,
        "--store",
        "alone.zarr",
    )
    assert files_of(tmp_path / "s.zarr") == files_of(tmp_path / "alone.zarr")


def files_of(store: Path) -> dict[str, bytes]:
    files = (file for file in sorted(store.rglob("*")) if file.is_file())
    return {str(file.relative_to(store)): file.read_bytes() for file in files}
