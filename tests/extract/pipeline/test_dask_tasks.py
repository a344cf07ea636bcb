"""Extraction, verification and sweeps on dask workers, some of which die: the same store as without."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
import torch
from click.testing import CliRunner
from faster import store as stores
from faster.errors import Interrupted, ProvenanceMismatch, SourceError, StoreError, UsageError
from faster.extract import run as stage
from faster.extract.pipeline.dask_tasks import REASON
from faster.extract.pipeline.events import ShardEvent
from faster.extract.pipeline.job import ExtractJob
from faster.extract.run import ExtractConfig, extract
from faster.runtime import fan_out
from faster.runtime.dask_cluster import LOCAL, WorkerDied, connect, spread
from faster.store.commands import verify_command
from faster.store.maintain.verify import verify
from fatal_network import COLOURS, DEATHS, GREY, SPARED, write_coloured_video

distributed = pytest.importorskip("distributed")
SHARD_VIDEOS = 3


@pytest.fixture(autouse=True)
def small_shards_and_one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(stage, "shard_videos_for", lambda *_: SHARD_VIDEOS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_videos(root: Path, colours: Sequence[str]) -> Path:
    """A video of each colour, in the order of their names; "" is a harmless grey."""
    for i, colour in enumerate(colours):
        rgb = COLOURS[colour] if colour else GREY
        write_coloured_video(root / f"train/a/{i:02d} {colour or 'grey'}.mp4", rgb, seed=i)
    return root


def run(source: Path, store: Path, **changes: Any) -> list[ShardEvent]:
    events: list[Any] = []
    values: dict[str, Any] = {
        "models": ("fatal_network:build",),
        "source": str(source),
        "store": str(store),
        "allow_random": True,
        "clips": 2,
        "size": 32,
        "devices": ("cpu", "cpu"),
        "precision": "float32",
    }
    on_event = changes.pop("on_event", events.append)
    extract(ExtractConfig(**{**values, **changes}), progress=False, on_event=on_event)
    return [event for event in events if isinstance(event, ShardEvent)]


def run_serially(source: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """With a network that fails the poisonous videos and does not die of them."""
    with monkeypatch.context() as patch:
        patch.setenv(SPARED, REASON)
        run(source, store, devices=("cpu",))
    return files_of(store)


def files_of(store: Path) -> dict[str, bytes]:
    """Every file but the temporary ones that a worker leaves which is killed."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and not p.name.endswith(".tmp")
    }


def failures(store: Path) -> list[str]:
    """Names of the files that failed, each line once."""
    lines = [json.loads(line) for line in (store / "failures.jsonl").read_text().splitlines()]
    assert all(line["reason"] == REASON for line in lines), lines
    return sorted(Path(line["path"]).name for line in lines)


@contextmanager
def a_cluster(workers: int, **options: Any) -> Iterator[Any]:
    """One that somebody else started; it does not give up workers that die often."""
    patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "52 weeks"})
    with (
        patient,
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=60,
            **options,
        ) as cluster,
    ):
        yield cluster


def test_a_video_that_kills_its_worker_is_the_only_one_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_videos(tmp_path / "videos", ["", "", "", "", "red", "", "", ""])
    events = run(source, tmp_path / "dask.zarr", cluster=LOCAL)
    assert failures(tmp_path / "dask.zarr") == ["04 red.mp4"]
    assert sorted((event.shard, event.failed) for event in events) == [(0, 0), (1, 1), (2, 0)]
    assert files_of(tmp_path / "dask.zarr") == run_serially(source, tmp_path / "serial.zarr", monkeypatch)
    again = run(source, tmp_path / "dask.zarr", cluster=LOCAL)
    assert not again


def test_without_dask_a_video_that_kills_its_process_ends_the_run(tmp_path: Path) -> None:
    """Its shard is the second process's; the first one's shards may be whole, and no process is left."""
    source = make_videos(tmp_path / "videos", ["", "", "", "red", "", ""])
    with pytest.raises(Interrupted, match=r"the process on cpu was killed.*; whole shards are kept, run the"):
        run(source, tmp_path / "s.zarr")
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    assert not list((tmp_path / "s.zarr").rglob("receipts/000001.*"))


def test_workers_that_are_sent_away_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An adaptive cluster shrinks to one worker after the first shard, and grows again after the third."""
    source = make_videos(tmp_path / "videos", [""] * 15)
    seen: list[ShardEvent] = []
    with a_cluster(2) as cluster:

        def scale(event: object) -> None:
            if isinstance(event, ShardEvent):
                seen.append(event)
                if len(seen) in (1, 3):
                    cluster.scale(len(seen) // 2 + 1)

        address = cluster.scheduler_address
        run(source, tmp_path / "dask.zarr", cluster=address, devices=("cpu",), on_event=scale)
    assert sorted(event.shard for event in seen) == list(range(5))
    assert files_of(tmp_path / "dask.zarr") == run_serially(source, tmp_path / "serial.zarr", monkeypatch)


def test_a_scheduler_that_goes_away_ends_the_run_and_keeps_what_is_whole(tmp_path: Path) -> None:
    source = make_videos(tmp_path / "videos", [""] * 15)
    with a_cluster(1) as cluster:

        def end(event: object) -> None:
            if isinstance(event, ShardEvent):
                cluster.close()

        with pytest.raises(Interrupted, match="the dask scheduler"):
            run(
                source, tmp_path / "s.zarr", cluster=cluster.scheduler_address, devices=("cpu",), on_event=end
            )
    assert stores.open(tmp_path / "s.zarr").features("fatal_network:build", 8).ok.sum() >= SHARD_VIDEOS


def test_what_a_given_cluster_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its workers have no GPU, do not see the store that the command sees, or compute otherwise."""
    source = make_videos(tmp_path / "videos", ["", ""])
    store = tmp_path / "s.zarr"
    with a_cluster(1) as cluster:
        address = cluster.scheduler_address
        with pytest.raises(UsageError, match=r"of the 1 worker at .* none has the resource GPU"):
            run(source, tmp_path / "gpu.zarr", cluster=address, devices=("cuda",), precision="bf16")
        real = stage.run_dask

        def elsewhere(job: ExtractJob, *rest: Any, **more: Any) -> None:
            real(replace(job, segments=("other",)), *rest, **more)

        def otherwise(job: ExtractJob, *rest: Any, **more: Any) -> None:
            real(replace(job, precisions=("bf16",)), *rest, **more)

        def older(*values: Any, **more: Any) -> None:
            monkeypatch.setattr(fan_out, "__version__", "0.0.9")
            real(*values, **more)

        for wrong, said in (
            (elsewhere, "finds another store at"),
            (otherwise, "in bf16; the store's maps are"),
            (older, "has faster .*, this process 0.0.9; install the same one"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(stage, "run_dask", wrong)
                with pytest.raises(ProvenanceMismatch, match=said):
                    run(source, store, cluster=address, devices=("cpu",))


def test_a_worker_that_sees_no_videos_fails_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the fastest, and get them all."""
    source = make_videos(tmp_path / "videos", ["", ""])
    real = stage.run_dask

    def unmounted(job: ExtractJob, *rest: Any, **more: Any) -> None:
        real(replace(job, root=str(tmp_path / "elsewhere")), *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "run_dask", unmounted)
        with pytest.raises(SourceError, match="finds none of the videos of shard 0"):
            run(source, tmp_path / "s.zarr", cluster=LOCAL, devices=("cpu",))
    assert not list((tmp_path / "s.zarr").rglob("receipts/*.json"))


def square(number: int) -> int:
    if number < 0:
        raise StoreError(f"{number} is below zero")
    if number == 13:
        os._exit(1)
    return number * number


def test_results_come_with_their_places_and_errors_as_they_are() -> None:
    """And nobody but this machine can reach the workers, the scheduler or a dashboard."""
    with connect(LOCAL, workers=2) as client:
        assert sorted(spread(client, square, range(40, 60))) == [(i, (40 + i) ** 2) for i in range(20)]
        with pytest.raises(StoreError, match="-1 is below zero"):
            list(spread(client, square, [1, -1]))
        ours = psutil.Process()
        listening = {
            connection.laddr.ip
            for process in (ours, *ours.children(recursive=True))
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        [(place, died)] = spread(client, square, [13])
        assert place == 0 and isinstance(died, WorkerDied)
        assert dict(spread(client, square, [3])) == {0: 9}  # on a worker that took its place


def test_work_waits_for_workers_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with a_cluster(0) as cluster, connect(cluster.scheduler_address, workers=0, needs={"GPU": 1}) as client:
        assert f"no worker is at {cluster.scheduler_address} yet" in capsys.readouterr().err
        cluster.scale(1)
        assert dict(spread(client, square, [3])) == {0: 9}


def wait_for_ever(number: int) -> None:
    threading.Event().wait()


def test_who_is_stopped_ends_the_workers_in_the_middle_of_their_tasks() -> None:
    with pytest.raises(KeyboardInterrupt), connect(LOCAL, workers=1) as client:
        workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        waiting = client.submit(wait_for_ever, 0)
        assert waiting.status == "pending"
        raise KeyboardInterrupt
    assert workers and not any(worker.is_running() for worker in workers)


def test_verify_on_dask_finds_what_it_finds_without(tmp_path: Path) -> None:
    source = make_videos(tmp_path / "videos", [""] * 6)
    store = tmp_path / "s.zarr"
    run(source, store, devices=("cpu",))
    shard = next(store.glob("features/*/L8/maps/c/1/0/0/0/0/0/0"))
    shard.write_bytes(bytes(len(shard.read_bytes())))
    found = verify(store, cluster=LOCAL, processes=1, progress=False)
    assert [bad.shard for bad in found.bad] == [1]
    assert found == verify(store, processes=1, progress=False)


def test_options_that_cannot_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="say --devices cuda or --devices cpu"):
        ExtractConfig(models=("r2d26",), cluster="tcp://10.0.0.1:8786")
    ended = CliRunner().invoke(verify_command, [str(tmp_path), "--scheduler", "tcp://10.0.0.1:8786"])
    assert isinstance(ended.exception, UsageError) and "--executor dask" in str(ended.exception)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'faster-video\[dask\]'"), connect(LOCAL, workers=1):
        pass


@pytest.mark.stress
def test_twenty_worker_deaths_of_every_kind_cost_the_guilty_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A given cluster that forgives one death, whose workers may take 1 GB."""
    colours = [""] * 38
    for i, colour in enumerate([*DEATHS, *DEATHS, "red"]):
        colours[1 + 4 * i] = colour
    source = make_videos(tmp_path / "videos", colours)
    guilty = sorted(p.name for p in source.rglob("*.mp4") if "grey" not in p.name)
    with a_cluster(2, memory_limit="1GB", scheduler_kwargs={"allowed_failures": 1}) as cluster:
        events = run(source, tmp_path / "dask.zarr", cluster=cluster.scheduler_address, devices=("cpu",))
        ends = [
            event for _, event in cluster.scheduler.get_events("all") if event["action"] == "remove-worker"
        ]
    deaths = sum(not event["expected"] for event in ends)
    print(f"\n{deaths} workers died, {len(guilty)} videos recorded")
    assert deaths >= 20
    assert failures(tmp_path / "dask.zarr") == guilty
    assert len(events) == 13
    assert files_of(tmp_path / "dask.zarr") == run_serially(source, tmp_path / "serial.zarr", monkeypatch)
