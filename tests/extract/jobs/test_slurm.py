"""The job script of `faster submit slurm` runs, is stopped, requeued and run again; Slurm's commands are stand-ins."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import fake_slurm
import inside
import pytest
from faster.errors import StoreError, UsageError
from faster.extract.jobs.slurm import SlurmJob, tasks_of_script
from faster.extract.jobs.status import status
from faster.store.write import create as writer
from sets import make_bright_set

MODEL = "r2d14-w4"
EXTRACT = ["videos", "--model", MODEL, "--store", "s.zarr", "--allow-random", "--clips", "2", "--size", "32"]


def faster(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "faster.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_bright_set(tmp_path / "videos")
    for name in ("s.zarr", "alone.zarr"):
        writer.create(tmp_path / name, shard_videos=4)  # three shards of twelve videos
    return tmp_path


def test_an_array_makes_the_store_and_one_task_is_run_again(place: Path) -> None:
    environment = fake_slurm.install(place / "slurm")
    submitted = faster(place, environment, "submit", "slurm", "--tasks", "2", "--go", "--", *EXTRACT)
    assert submitted.returncode == 0, submitted.stderr
    assert "Submitted batch job 7" in submitted.stdout
    script = place / "s.zarr.sbatch"
    assert tasks_of_script(script) == 2
    logs = sorted(file.name for file in (place / "s.zarr.logs").iterdir())
    assert logs == ["7_0.log", "7_1.log"]
    assert status(place / "s.zarr").complete
    assert status(place / "s.zarr").models[0].whole == 3
    whole = files_of(place / "s.zarr")

    alone = inside.faster("extract", *EXTRACT[:3], "--store", "alone.zarr", *EXTRACT[5:], cwd=place)
    assert alone.returncode == 0, alone.stderr
    assert files_of(place / "alone.zarr") == whole  # two tasks, or one command: the same bytes

    (receipt,) = (place / f"s.zarr/features/{MODEL}/L8/receipts").glob("000000*")
    receipt.unlink()
    shown = faster(place, environment, "status", "s.zarr")
    assert shown.returncode == 75
    again = shown.stdout.rpartition("next: ")[2].split()
    assert again == ["sbatch", "--array=0", "s.zarr.sbatch"]
    assert subprocess.run(again, cwd=place, env=environment, timeout=200, check=False).returncode == 0
    assert files_of(place / "s.zarr") == whole


def test_a_task_near_its_time_limit_leaves_and_is_queued_again(place: Path) -> None:
    environment = fake_slurm.install(place / "slurm")
    (place / "slurm/warn_0").write_text("to do in")  # as soon as its log says what there is to do
    submitted = faster(place, environment, "submit", "slurm", "--tasks", "1", "--go", "--", *EXTRACT)
    assert submitted.returncode == 0, submitted.stderr
    calls = (place / "slurm/calls").read_text().splitlines()
    assert [call for call in calls if "requeue" in call or "ended" in call] == [
        "scontrol requeue 7_0",
        "task 0 ended 75",
        "task 0 ended 0",
    ]
    assert status(place / "s.zarr").complete


def files_of(store: Path) -> dict[str, bytes]:
    """Every file but for what depends on the folder's name."""
    files = (file for file in sorted(store.rglob("*")) if file.is_file() and file.name != "zarr.json")
    return {str(file.relative_to(store)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "2000", "--", *EXTRACT], "arrays have at most 1000 (MaxArraySize)"),
        (["--tasks", "2", "--", *EXTRACT, "--task", "0/2"], "leave --task out"),
        (["--tasks", "2", "--", *EXTRACT[:3]], "name the store"),
        (["--tasks", "2", "--", *EXTRACT[:3], "--store", "s3://x/y"], "object storage"),
        (["--tasks", "2", "--", *EXTRACT, "--clip"], "--clip"),
        (["--tasks", "2", "--time", "a day", "--", *EXTRACT], "--time is 'a day'"),
    ],
)
def test_what_cannot_be_submitted_is_said_at_once(place: Path, arguments: list[str], message: str) -> None:
    environment = fake_slurm.install(place / "slurm")
    ended = faster(place, environment, "submit", "slurm", *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert not (place / "s.zarr.sbatch").exists()


def test_options_cannot_break_out_of_the_script(tmp_path: Path) -> None:
    job = SlurmJob(command=["faster", "extract", "it's; rm -rf x"], tasks=2, at_once=1)
    script = job.script(tmp_path)
    assert "srun faster extract 'it'\"'\"'s; rm -rf x' --task" in script
    assert "#SBATCH --array=0-1%1\n" in script
    with pytest.raises(UsageError, match="--partition"):
        SlurmJob(command=[], tasks=1, partition="gpu\n#SBATCH --uid=0")


def test_places_of_any_name_stand_whole_in_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = SlurmJob(command=["true"], tasks=1).script(tmp_path / "50%b")
    assert f"#SBATCH --output={tmp_path}/50%%b/%A_%a.log\n" in script  # Slurm would put a number for %b
    with pytest.raises(UsageError, match="line break"):
        SlurmJob(command=["extract", "a\nb"], tasks=1)
    job = SlurmJob(command=["true"], tasks=1)
    with pytest.raises(UsageError, match="backslash"):
        job.script(tmp_path / "a\\b")  # Slurm fails a job with one
    (tmp_path / "a\nrm -rf b").mkdir()
    monkeypatch.chdir(tmp_path / "a\nrm -rf b")
    with pytest.raises(UsageError, match="line break"):
        job.script(tmp_path)


def test_what_is_said_to_be_run_next_can_be(place: Path) -> None:
    environment = fake_slurm.install(place / "slurm")
    extract = [*EXTRACT[:4], "two words.zarr", *EXTRACT[5:]]
    submitted = faster(place, environment, "submit", "slurm", "--tasks", "1", "--", *extract)
    command = shlex.split(submitted.stdout.rpartition("next: ")[2])
    assert command == ["sbatch", str(place / "two words.zarr.sbatch")]


@pytest.mark.parametrize("data", [b"\x8d\xff", b"#!/bin/bash\n", b"# faster: tasks 0\n"])
def test_what_is_no_job_script_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "job").write_bytes(data)
    with pytest.raises(StoreError, match="no job script"):
        tasks_of_script(tmp_path / "job")


def test_the_script_is_sound_shell(tmp_path: Path) -> None:
    script = tmp_path / "job"
    script.write_text(SlurmJob(command=["true"], tasks=1, setup=["x=1"]).script(tmp_path))
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
