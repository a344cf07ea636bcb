"""Training by torchrun: two gloo processes against one, and what a dying rank leaves behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from faster.aggregate.train import TrainConfig, train_agg
from faster.errors import UsageError
from faster.training.distributed import ALONE, Ranks, init_distributed, started
from places import SUPPORT
from safetensors.torch import load_file
from stores import make_spec, make_store, make_videos


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.slow
def test_two_processes_train_as_one_even_after_one_died(tmp_path: Path) -> None:
    """The same batches, so the same losses up to the order of sums: 1e-6 of each, and weights to match."""
    specs = [make_spec("dear", clips=8), make_spec("cheap", clips=8)]
    store = make_store(
        tmp_path / "s.zarr", specs, make_videos(48), gflops={"dear": 9.0, "cheap": 1.0}, signal=True
    )
    values = {
        "aggregator": "fast-gru",
        "pattern": "1:3",
        "clips": 4,
        "epochs": 3,
        "batch_size": 7,
        "device": "cpu",
    }
    one = train_agg(TrainConfig(store=store.path, out=tmp_path / "one", **values), progress=False)

    options = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = ["train-agg", "--store", str(store.path), "--out", str(tmp_path / "two"), *options]
    died = torchrun(str(SUPPORT / "dying_rank.py"), *command)
    assert died.returncode != 0
    assert len((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()) == 1
    assert not (tmp_path / "two" / "result.json").exists()

    done = torchrun("-m", "faster.cli", *command, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["report"]["metrics"]["videos"] == 12  # one rank speaks
    assert done.stderr.count("run folder: ") == 1
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(ours) == len(theirs) == 3
    for a, b in zip(ours, theirs, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-6)
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
        assert {k: a[k] for k in ("epoch", "top1", "learning_rate")} == {
            k: b[k] for k in ("epoch", "top1", "learning_rate")
        }
    weights = load_file(tmp_path / "two" / "best.safetensors")
    for name, value in load_file(one.run / "best.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6)
    predicted = [
        [line.split(",")[2] for line in (tmp_path / name / "predictions.csv").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert predicted[0] == predicted[1] and len(predicted[0]) == 13
    assert json.loads((tmp_path / "two" / "config.json").read_text())["ranks"] == 2
    names = {"config.json", "metrics.jsonl", "last.safetensors", "last.json", "best.safetensors", "best.json"}
    names |= {"trained_on.json", "result.json", "predictions.csv", "timing.jsonl"}
    found = {path.name for path in (tmp_path / "two").iterdir()}
    assert {name for name in found if not name.startswith("events.out")} == names


@pytest.mark.slow
def test_two_processes_train_as_one_on_any_pattern(tmp_path: Path) -> None:
    """Each model has a head, and a step of one or two videos often leaves one out, on one process or on both."""
    classes = {"num_classes": 2, "class_names": ("x", "y")}  # not the store's, so heads are trained
    specs = [make_spec("dear", **classes), make_spec("cheap", map_shape=(1, 1, 1, 8), **classes)]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(48), gflops={"dear": 9.0, "cheap": 1.0})
    values = {"aggregator": "average", "pattern": "any", "epochs": 2, "batch_size": 2, "device": "cpu"}
    config = TrainConfig(store=store.path, out=tmp_path / "one", **values)
    one = train_agg(config, progress=False)
    options = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = ["train-agg", "--store", str(store.path), "--out", str(tmp_path / "two"), *options]
    done = torchrun(str(SUPPORT / "ending_rank.py"), *command)
    assert done.returncode == 0, done.stderr  # also of no thread left that could abort an ending interpreter
    weights = load_file(tmp_path / "two" / "last.safetensors")
    for name, value in load_file(one.run / "last.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [0, 1, 4, 5, 17])
def test_ranks_share_a_batch_as_equally_as_can_be(length: int, count: int) -> None:
    things = np.arange(length)
    for rank, expected in enumerate(np.array_split(things, count)):
        assert things[Ranks(rank=rank, count=count).shard(length)].tolist() == expected.tolist()


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "4")  # a leftover of something else
    assert started() == ALONE
    with init_distributed("cpu") as (ranks, device):
        assert ranks is ALONE and device == torch.device("cpu")
        assert (ranks.total(2.5), ranks.largest(3), ranks.all_gather("a")) == (2.5, 3, ["a"])


def test_one_gpu_cannot_be_named_for_several_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert started() == Ranks(rank=1, count=2)
    with (
        pytest.raises(UsageError, match="leave it out, and each takes its own GPU"),
        init_distributed("cuda:0"),
    ):
        pass


WORLD = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def free_port() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def set_only(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in (*WORLD, "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"LOCAL_RANK": "0", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
        WORLD,
        {**WORLD, "MASTER_PORT": "many"},
        {**WORLD, "MASTER_PORT": "70000"},
        {**WORLD, "MASTER_PORT": "29500", "RANK": "2"},
    ],
)
def test_variables_that_are_left_over_are_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    set_only(monkeypatch, variables)
    with pytest.raises(UsageError) as raised:
        started()
    message = str(raised.value)
    assert all(f"{name}={value}" in message for name, value in variables.items())
    unset = message.partition("unset ")[2].partition(";")[0].split()
    assert set(unset) == set(variables) and "torchrun --nproc-per-node" in message
    for name in unset:
        monkeypatch.delenv(name)
    assert started() == ALONE


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "2"},
        {"RANK": "3"},
        {"LOCAL_RANK": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {**WORLD, "WORLD_SIZE": "1"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "7"},
        {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
        {"RANK": "", "WORLD_SIZE": "2"},
    ],
)
def test_variables_of_others_mean_nothing(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    set_only(monkeypatch, variables)
    assert started() == ALONE


@pytest.mark.parametrize("rank", ["0", "1"])
def test_where_nobody_else_comes_it_is_said_soon(tmp_path: Path, rank: str) -> None:
    """As the command is called: in a process of its own, whose group would wait for hours."""
    store = make_store(tmp_path / "s.zarr", [make_spec("cheap")], make_videos(24))
    world = {**WORLD, "RANK": rank, "MASTER_PORT": free_port()}
    environment = {**os.environ, **world, "OMP_NUM_THREADS": "1"}
    environment.pop("TORCHELASTIC_RUN_ID", None)
    done = subprocess.run(
        [sys.executable, "-m", "faster.cli", "train-agg", "--store", str(store.path), "--device", "cpu"],
        capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "WORLD_SIZE=2" in line]
    assert f"RANK={rank}" in line and "not all of them came within" in line and "unset RANK" in line
    assert not (tmp_path / "runs").exists()


def test_a_port_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        set_only(monkeypatch, {**WORLD, "MASTER_PORT": port})
        with pytest.raises(UsageError, match=f"port {port} is taken"), init_distributed("cpu"):
            pass


@pytest.mark.slow
def test_processes_that_something_else_started_find_each_other(tmp_path: Path) -> None:
    code = (
        "from datetime import timedelta\nfrom faster.training import distributed as ranks\nranks.JOINING = timedelta(minutes=1)\n"
        "with ranks.init_distributed('cpu') as (r, d): print(r.total(r.rank + 1))"
    )
    port = free_port()
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, **WORLD, "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["3.0", "3.0"]
