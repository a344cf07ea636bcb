"""A sweep: its grids as the paper's tables have them, and its cells as each would be alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from faster.aggregate.data import pooled
from faster.aggregate.data.loader import ClipReader, TrainLoader
from faster.aggregate.data.mix import MixRequest, choose_mix
from faster.aggregate.data.pooled import PooledReader, pool_maps
from faster.aggregate.models.base import pool
from faster.aggregate.models.registry import build, class_of, known_names
from faster.aggregate.runs import load_run
from faster.aggregate.sweep import cells as sweep_cells
from faster.aggregate.sweep import shared_pass
from faster.aggregate.sweep.commands import sweep_command
from faster.aggregate.sweep.grid import Cell, Grid
from faster.aggregate.sweep.results import read_lines
from faster.aggregate.sweep.run import SweepConfig, SweepResult, run_sweep
from faster.aggregate.task import AggregatorTask
from faster.aggregate.train import TrainConfig, train_agg
from faster.errors import DataError, Interrupted, RunError, UsageError
from faster.runtime.dask_cluster import LOCAL
from faster.store import Features, Store
from log_lines import logged
from stores import make_spec, make_store, make_videos
from torch import Tensor

SPECS = [make_spec("dear", clips=8, views=2), make_spec("cheap", clips=8, views=2)]
GFLOPS = {"dear": 9.0, "cheap": 1.0}
TRAINING: dict[str, Any] = {"epochs": 2, "batch_size": 8, "dropout": 0.2, "device": "cpu"}
SAME_BYTES = (
    "config.json",
    "best.safetensors",
    "best.json",
    "last.safetensors",
    "metrics.jsonl",
    "trained_on.json",
    "predictions.csv",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two processes have fewer threads each, which would change the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("sweep") / "small.zarr"
    return make_store(path, SPECS, make_videos(36), gflops=GFLOPS, signal=True)


def run(store: Store, out: Path, *, lines: list[str] | None = None, **grid: Any) -> SweepResult:
    values: dict[str, Any] = {"aggregators": ("gru", "lstm", "fast-gru"), "patterns": ("1:3",), "seeds": 2}
    settings = {key: grid.pop(key) for key in ("jobs", "cache_bytes", "cluster") if key in grid}
    training = {**TRAINING, **{key: grid.pop(key) for key in TRAINING if key in grid}}
    config = SweepConfig(
        training=TrainConfig(store=store.path, **training),
        grid=Grid(**{**values, **grid}),
        out=out,
        **settings,
    )
    with logged(lines):
        return run_sweep(config, progress=False)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.name in SAME_BYTES
    }


@pytest.fixture(scope="module")
def swept(store: Store, tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return run(store, tmp_path_factory.mktemp("swept") / "sweep", clips=(4, 8))


def test_each_cell_is_what_it_would_be_alone(store: Store, swept: SweepResult, tmp_path: Path) -> None:
    """Bit for bit, the whole run folder: pooled from memory, maps in lockstep, with dropout."""
    for name in ("gru", "lstm", "fast-gru"):
        alone = train_agg(
            TrainConfig(
                store=store.path,
                aggregator=name,
                pattern="1:3",
                clips=4,
                clip_frames=8,
                seed=1,
                out=tmp_path / name,
                **TRAINING,
            ),
            progress=False,
        )
        cell = swept.folder / "cells" / f"{name}-1-3-n4-l8-dear-cheap-s1"
        for file in SAME_BYTES:
            assert (cell / file).read_bytes() == (alone.run / file).read_bytes(), (name, file)
        assert json.loads((cell / "result.json").read_text())["confusion"] == alone.report.confusion.to_json()
        assert load_run(cell).config.aggregator == name


def test_the_lines_say_every_cell(swept: SweepResult) -> None:
    assert not swept.failed and not swept.empty and len(swept.finished) == 12
    assert read_lines(swept.folder / "cells.jsonl") == [
        line for line in read_lines(swept.folder / "cells.jsonl") if line in swept.lines
    ]
    for line in swept.finished:
        result = json.loads((swept.folder / line["run"] / "result.json").read_text())
        for key in ("metrics", "gflops_per_video", "coverage", "split", "part"):
            assert line[key] == result[key]


def test_batches_are_read_once_for_all_that_share_them(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {"clips": 0}
    plain = Features.read_stored

    def counting(self: Features, rows: Any, *rest: Any, **options: Any) -> Any:
        read["clips"] += len(rows)
        return plain(self, rows, *rest, **options)

    def clips_of(*aggregators: str, **more: Any) -> int:
        read["clips"] = 0
        folder = tmp_path / "-".join([*aggregators, *map(str, more.values())])
        run(store, folder, aggregators=aggregators, seeds=1, clips=(4,), **more)
        return read["clips"]

    monkeypatch.setattr(Features, "read_stored", counting)
    train, report = 27, 9  # videos; 4 clips of each in each of two epochs, and in the report
    assert clips_of("fast-gru") == 4 * (2 * train + report)
    assert clips_of("fast-gru", "concat", "max-pool") == 4 * (2 * train + report)
    # Pooled: all 8 clips of both models once, of the one view that is whole.
    assert clips_of("gru", "lstm", "tsn") == 8 * 2 * (train + report)
    assert clips_of("gru", epochs=7) == 8 * 2 * (train + report)
    assert clips_of("gru", cache_bytes=1000) == 4 * (2 * train + report)


@pytest.mark.parametrize("name", known_names())
def test_which_aggregators_need_no_more_than_pooled_vectors(name: str) -> None:
    """The list against what each does with maps of one average and of different ones."""
    torch.manual_seed(0)
    shape = (1, 2, 2, 8)
    aggregator = build(name, map_shapes={"m": shape}, num_classes=3).double().eval()
    if hasattr(aggregator, "trained_steps"):
        aggregator.trained_steps.fill_(2)
    x = torch.rand(3, 4, *shape, dtype=torch.float64)

    def answer(x: Tensor) -> Tensor:
        state = aggregator.init(x[:, 0], "m")
        for t in range(1, x.shape[1]):
            state = aggregator.step(state, x[:, t], "m")
        return aggregator.readout(state)

    with torch.inference_mode():
        same = torch.allclose(answer(x), answer(x.mean((2, 3, 4), keepdim=True)), rtol=1e-9)
    assert same == (class_of(name).reads_pooled)


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_pooled_vectors_are_those_of_the_batches(tmp_path: Path, dtype: str) -> None:
    specs = [make_spec(m, clips=6, views=2, map_shape=(2, 3, 3, 16), dtype=dtype) for m in ("dear", "cheap")]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(12), gflops=GFLOPS, failed={5: "no"})
    mix = choose_mix(store, MixRequest(pattern="1:2", clips=5))
    rows = np.array([0, 2, 3, 7, 10])
    vectors = {
        name: pool_maps(store, features, rows, device=torch.device("cpu"))
        for name, features in mix.features.items()
    }
    rng = np.random.default_rng(0)
    wanted = rng.permutation(rows)
    views = np.zeros(5, dtype=np.int64)
    clips = np.stack([np.sort(rng.choice(6, 5, replace=False)) for _ in rows])
    model_of = rng.integers(2, size=clips.shape)
    plain = ClipReader(mix, store.videos.labels, reads="maps").read(wanted, views, clips, model_of)
    plain = plain.to(torch.device("cpu"))
    batch = PooledReader(mix, store.videos.labels, vectors).read(wanted, views, clips, model_of)
    expected = plain.map(lambda model, maps: pool(maps, torch.float32)).dense(torch.float32)
    found = batch.map(lambda model, maps: pool(maps, torch.float32)).dense(torch.float32)
    assert torch.equal(found, expected)
    assert torch.equal(batch.labels, plain.labels) and torch.equal(batch.videos, plain.videos)


def test_run_again_only_what_is_missing_is_done(
    store: Store, swept: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.stat().st_mtime_ns for file in swept.folder.rglob("*.safetensors")}
    asked: list[Cell] = []
    plain = sweep_cells.CellRunner.run

    def noting(self: Any, cells: list[Cell], report: Any) -> None:
        asked.extend(cells)
        plain(self, cells, report)

    monkeypatch.setattr(sweep_cells.CellRunner, "run", noting)
    again = run(store, swept.folder, clips=(4, 8))
    assert again.lines == swept.lines and not asked
    more = run(store, swept.folder, aggregators=("gru",), clips=(2, 4), seeds=1, patterns=("all-C",))
    assert [cell.name for cell in asked] == ["gru-all-C-n2-l8-cheap-s0", "gru-all-C-n4-l8-cheap-s0"]
    assert len(more.finished) == 2 and len(read_lines(swept.folder / "cells.jsonl")) == 14
    assert {file: file.stat().st_mtime_ns for file in before} == before


@pytest.mark.parametrize("stop_at", [2, 7])
def test_a_stopped_sweep_goes_on_bit_for_bit(
    store: Store, swept: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """A stop while three cells train together, then all again: the bytes of the sweep that was not stopped."""
    steps = {"done": 0}
    loss = AggregatorTask.loss

    def stopping(self: AggregatorTask, batch: Any) -> Tensor:
        steps["done"] += 1
        if steps["done"] == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(AggregatorTask, "loss", stopping)
        with pytest.raises(Interrupted):
            run(store, tmp_path, clips=(4, 8))
    assert len(read_lines(tmp_path / "cells.jsonl")) < 12
    assert len(run(store, tmp_path, clips=(4, 8)).finished) == 12
    names = {line["cell"] for line in swept.lines}
    there = {k: v for k, v in files(swept.folder / "cells").items() if k.split("/")[0] in names}
    assert files(tmp_path / "cells") == there


@pytest.mark.parametrize("save_seconds", [0.0, 60.0])
def test_a_killed_sweep_goes_on_from_what_was_saved(
    store: Store, swept: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_seconds: float
) -> None:
    """Left in the middle of the second epoch without a chance to save, as by kill -9."""
    steps = {"done": 0}
    loss = AggregatorTask.loss

    class Killed(BaseException):
        pass

    def killing(self: AggregatorTask, batch: Any) -> Tensor:
        steps["done"] += 1
        if steps["done"] == 9:  # two cells, three steps an epoch
            raise Killed
        return loss(self, batch)

    monkeypatch.setattr(shared_pass, "SAVE_SECONDS", save_seconds)
    with monkeypatch.context() as patch:
        patch.setattr(AggregatorTask, "loss", killing)
        with pytest.raises(Killed):
            run(store, tmp_path, clips=(4, 8))
    saved = {file.parent.name.split("-")[0] for file in tmp_path.rglob("last.safetensors")}
    assert saved == ({"gru", "lstm"} if save_seconds == 0 else set())
    assert len(run(store, tmp_path, clips=(4, 8)).finished) == 12
    names = {line["cell"] for line in swept.lines}
    there = {k: v for k, v in files(swept.folder / "cells").items() if k.split("/")[0] in names}
    assert files(tmp_path / "cells") == there


@pytest.mark.parametrize("cluster", [None, LOCAL])
def test_processes_and_dask_workers_give_the_same_bytes(
    store: Store, swept: SweepResult, tmp_path: Path, cluster: str | None
) -> None:
    if cluster is not None:
        pytest.importorskip("distributed")
    result = run(store, tmp_path, clips=(4, 8), jobs=2, cluster=cluster)
    assert sorted(line["cell"] for line in result.finished) == sorted(line["cell"] for line in swept.finished)
    names = {line["cell"] for line in swept.lines}
    there = {k: v for k, v in files(swept.folder / "cells").items() if k.split("/")[0] in names}
    assert files(tmp_path / "cells") == there


def test_a_cell_that_diverges_fails_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = AggregatorTask.loss

    def diverging(self: AggregatorTask, batch: Any) -> Tensor:
        value = loss(self, batch)
        return value * float("nan") if self.model.name == "concat" else value

    monkeypatch.setattr(AggregatorTask, "loss", diverging)
    result = run(store, tmp_path, aggregators=("concat", "fast-gru"), seeds=1, clips=(4,))
    assert [line["aggregator"] for line in result.finished] == ["fast-gru"]
    assert "the loss is nan on " in result.failed[0]["failed"]
    monkeypatch.undo()
    again = run(store, tmp_path, aggregators=("concat", "fast-gru"), seeds=1, clips=(4,))
    assert len(again.finished) == 2 and not again.failed


def test_other_settings_or_another_store_are_refused(
    store: Store, swept: SweepResult, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="epochs is 2 there, 3 asked"):
        run(store, swept.folder, clips=(4, 8), epochs=3)
    path = tmp_path / "grown.zarr"
    small = make_store(path, SPECS, make_videos(24), gflops=GFLOPS, signal=True)
    run(small, tmp_path / "s", aggregators=("gru",), seeds=1)
    (tmp_path / "s" / "cells.jsonl").write_text(
        (tmp_path / "s" / "cells.jsonl")
        .read_text()
        .replace('"store_fingerprint": "', '"store_fingerprint": "0')
    )
    with pytest.raises(RunError, match=r"has changed since gru-1-3-n8-l8-dear-cheap-s0 was trained"):
        run(small, tmp_path / "s", aggregators=("gru",), seeds=1)


def test_averaging_the_backbones_own_scores_has_one_seed(store: Store, tmp_path: Path) -> None:
    result = run(store, tmp_path, aggregators=("average",), patterns=("all-E", "1:3"), seeds=3)
    assert [(line["pattern"], line["seed"]) for line in result.finished] == [("all-E", 0), ("1:3", 0)]
    assert result.finished[0]["best_epoch"] is None
    alone = TrainConfig(
        store=store.path, aggregator="average", pattern="1:3", out=tmp_path / "alone", **TRAINING
    )
    report = train_agg(alone, progress=False).report
    assert result.finished[1]["metrics"]["top1"] == report.metrics.top1


def test_a_grid_without_any_possible_cell_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cell of this grid can be: 1:31 needs 32 clips, there are 8"):
        run(store, tmp_path, patterns=("1:31",))
    with pytest.raises(UsageError, match="did you mean gru"):
        run(store, tmp_path, aggregators=("gruu",))
    with pytest.raises(UsageError, match="--jobs is 0"):
        run(store, tmp_path, jobs=0)


def test_aggregators_that_cannot_have_so_many_channels_leave_their_cells_empty(tmp_path: Path) -> None:
    specs = [make_spec("dear", clips=4), make_spec("cheap", clips=4, map_shape=(1, 3, 3, 20))]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(24), gflops=GFLOPS, signal=True)
    result = run(
        store, tmp_path / "sweep", aggregators=("gru", "attentive-probe"), patterns=("1:1", "all-E"), seeds=2
    )
    assert [(line["aggregator"], line["pattern"], line["seed"]) for line in result.empty] == [
        ("attentive-probe", "1:1", 0)
    ]
    assert "multiple of 8" in result.empty[0]["empty"] and len(result.finished) == 6


def test_free_memory_is_the_machines_or_less() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < pooled.free_memory_bytes() <= total


def test_the_plan_of_a_step_is_shared(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aggregators in one pass ask for each (epoch, step) once."""
    plans: list[tuple[int, int]] = []
    plan = TrainLoader.plan

    def noting(self: TrainLoader, epoch: int, step: int) -> Any:
        plans.append((epoch, step))
        return plan(self, epoch, step)

    monkeypatch.setattr(TrainLoader, "plan", noting)
    run(store, tmp_path, aggregators=("fast-gru", "concat", "max-pool"), seeds=1, clips=(4,))
    assert sorted(plans) == sorted(set(plans)) == [(e, s) for e in range(2) for s in range(3)]


def test_the_command(store: Store, tmp_path: Path) -> None:
    arguments = ["--store", str(store.path), "--out", str(tmp_path / "s"), "--device", "cpu", "--epochs", "2"]
    arguments += ["--aggregators", "gru,tsn", "--patterns", "1:3 1:15", "--clips", "4", "--seeds", "1"]
    result = CliRunner().invoke(sweep_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "2 cells finished, 0 failed, 2 empty" in result.stdout
    assert "empty: gru 1:15 of 4 clips: 1:15 needs 16 clips, there are 4" in result.stdout
    assert "train: 27 listed, 27 whole" in result.stdout and "pooled vectors: up to 0.00 GiB" in result.stdout
    again = CliRunner().invoke(sweep_command, [*arguments, "--json"], catch_exceptions=False)
    assert len(json.loads(again.stdout)["cells"]) == 4 and "2 of them finished before" in again.stderr
    bad = CliRunner().invoke(sweep_command, [*arguments, "--clips", "4,x"])
    assert str(bad.exception) == "--clips is x; it must be a whole number, at least 1"


def test_importing_the_commands_imports_no_torch() -> None:
    code = "import sys, faster.aggregate.sweep.commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_store_that_cannot_give_figures_is_refused_at_once(tmp_path: Path) -> None:
    store = make_store(
        tmp_path / "s.zarr", SPECS, make_videos(9, splits=dict.fromkeys(range(9), "train")), gflops=GFLOPS
    )
    with pytest.raises(DataError, match=r"nothing could be reported: .* no labelled test video of split1"):
        run(store, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: json.dumps({**line, "cell": 1}),
        lambda line: json.dumps({**line, "metrics": {}}),
        lambda line: json.dumps({**line, "metrics": None}),
        lambda line: json.dumps({**line, "metrics": {"top1": "high"}}),
        lambda line: json.dumps({**line, "clips": "4"}),
        lambda line: json.dumps({name: line[name] for name in ("cell", "metrics")}),
        lambda line: json.dumps({"cell": "x", "failed": "y"}),
        lambda line: json.dumps(line)[:-30],
        lambda line: "[]",
        lambda line: "null",
        lambda line: "[" * 100_000,
    ],
)
def test_damaged_lines_are_said(swept: SweepResult, tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "cells.jsonl"
    path.write_text(json.dumps(swept.lines[0]) + "\n" + damage(swept.lines[1]) + "\n")
    with pytest.raises(RunError, match=r"cells\.jsonl is damaged .*remove it"):
        read_lines(path)


def test_lines_hold_any_character(swept: SweepResult, tmp_path: Path) -> None:
    """Such as a line separator, which is no end of a line of JSON."""
    line = {**swept.lines[0], "notes": ["of víd\u2028eo\x85.mp4"]}
    (tmp_path / "cells.jsonl").write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_lines(tmp_path / "cells.jsonl") == [line]


def test_a_cell_whose_run_was_removed_is_trained_again(store: Store, tmp_path: Path) -> None:
    before = run(store, tmp_path, aggregators=("gru",), seeds=1, clips=(4,)).finished
    shutil.rmtree(tmp_path / before[0]["run"])
    assert run(store, tmp_path, aggregators=("gru",), seeds=1, clips=(4,)).finished == before
    assert load_run(tmp_path / before[0]["run"]).config.aggregator == "gru"


def test_a_sweep_goes_into_no_store_and_is_no_run(store: Store, swept: SweepResult) -> None:
    with pytest.raises(UsageError, match="is a store; name another folder"):
        run(store, store.path)
    assert not (store.path / "cells.jsonl").exists()
    with pytest.raises(RunError, match="is a sweep's folder; name one of its runs, in "):
        load_run(swept.folder)


@pytest.mark.parametrize("option", ["--aggregators", "--patterns", "--clips"])
@pytest.mark.parametrize("text", ["", " , "])
def test_an_empty_list_does_not_mean_all(store: Store, option: str, text: str) -> None:
    result = CliRunner().invoke(sweep_command, ["--store", str(store.path), option, text])
    assert isinstance(result.exception, UsageError) and "the list is empty" in str(result.exception)


def test_no_number_of_clips_takes_memory(store: Store, tmp_path: Path) -> None:
    result = run(store, tmp_path, aggregators=("gru",), seeds=1, clips=(4, 10**20))
    assert result.empty[0]["empty"] == f"the store holds 8 clips a video, not {10**20}"
    config = TrainConfig(store=store.path, clips=10**20)
    with pytest.raises(DataError, match="holds 8 clips a video"):
        train_agg(config, progress=False)
