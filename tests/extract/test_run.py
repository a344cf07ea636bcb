"""`extract` writes what the backbones give, once, and records what it cannot."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import inside
import numpy as np
import pytest
import torch
from faster import store as stores
from faster.errors import (
    ProvenanceMismatch,
    SourceError,
    StorageError,
    StoreError,
    UsageError,
    WeightsError,
)
from faster.extract.backbones import build
from faster.extract.backbones.weights.load import WeightsInfo, load_weights, save_weights
from faster.extract.pipeline import worker as shards
from faster.extract.run import ExtractConfig, estimate, extract
from faster.extract.video.decode import load_clips
from faster.extract.video.transforms import normalise
from log_lines import logged
from sets import make_bright_set
from signals import interrupts
from stores import note_opens
from videos import make_video

CHEAP, DEAR = "r2d14-w4", "r2plus1d14-w4"


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bright_set(tmp_path_factory.mktemp("bright") / "videos")


def config(source: Path, store: Path, **changes: object) -> ExtractConfig:
    values: dict[str, object] = {
        "models": (CHEAP, DEAR),
        "source": str(source),
        "store": str(store),
        "allow_random": True,
        "clips": 3,
        "size": 32,
    }
    return ExtractConfig(**{**values, **changes})  # type: ignore[arg-type]


def run(settings: ExtractConfig) -> tuple[stores.Store, list[str]]:
    said: list[str] = []
    with logged(said):
        extract(settings, progress=False)
    return stores.open(str(settings.store)), said


def files_of(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_maps_equal_the_plain_network_on_the_decoded_clips(bright: Path, tmp_path: Path) -> None:
    """The oracle: unfolded, unbatched, float32, one clip at a time."""
    store, said = run(config(bright, tmp_path / "s.zarr", precision="float32"))
    assert any("RANDOM WEIGHTS" in line for line in said)
    assert store.models == [(CHEAP, 8), (DEAR, 8)] and len(store.videos.row_of) == 12
    for model in (CHEAP, DEAR):
        features = store.features(model, 8)
        assert features.ok.all() and features.spec.weights_random and features.num_classes == 0
        backbone, _ = load_weights(model, allow_random=True)
        for row in (0, 7):
            video = load_clips(bright / store.videos.paths[row], clips=3, clip_frames=8, size=32)
            with torch.no_grad():
                plain = [
                    backbone.features(normalise(torch.from_numpy(clip[None]), backbone.mean, backbone.std))[0]
                    for clip in video.clips
                ]
            stored = features.read_maps(row, 0, np.arange(3))
            np.testing.assert_allclose(stored, torch.stack(plain).numpy(), rtol=2e-3, atol=1e-4)
            facts = features.coverage.columns
            np.testing.assert_array_equal(facts["starts"][row, 0], video.starts)
            assert facts["frames"][row, 0] == video.frames


def test_a_rerun_does_nothing_and_two_models_are_the_same_as_one_after_the_other(
    bright: Path, tmp_path: Path
) -> None:
    store, _ = run(config(bright, tmp_path / "both.zarr"))
    before = files_of(store.path)
    _, said = run(config(bright, tmp_path / "both.zarr"))
    assert any("all whole already" in line for line in said)
    assert files_of(store.path) == before
    for model in (DEAR, CHEAP):
        run(config(bright, tmp_path / "each.zarr", models=(model,)))
    assert files_of(tmp_path / "each.zarr") == before


def test_a_run_opens_its_store_at_its_begin_and_at_its_end(
    bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time, as others may have written there meanwhile."""
    asked = config(bright, tmp_path / "s.zarr", devices=("cpu",))
    for changes in ({}, {"retry_failed": True}):
        with monkeypatch.context() as patch:
            opened = note_opens(patch)
            extract(replace(asked, **changes), progress=False)
        assert opened == [tmp_path / "s.zarr"] * 2


def test_one_bad_file_costs_itself_only(bright: Path, tmp_path: Path) -> None:
    root = tmp_path / "videos"
    make_bright_set(root, per_class=2, tests=1)
    (root / "train/dark/broken.mp4").write_bytes(b"not a video at all")
    (root / "test/light/empty.mp4").touch()
    store, _ = run(config(root, tmp_path / "s.zarr"))
    features = store.features(CHEAP, 8)
    assert features.ok.sum() == 4 and features.coverage.failed.sum() == 2
    failures = [json.loads(line) for line in (store.path / "failures.jsonl").read_text().splitlines()]
    assert {(f["id"], f["model"]) for f in failures} == {
        (name, model) for name in ("train/dark/broken.mp4", "test/light/empty.mp4") for model in (CHEAP, DEAR)
    }
    assert all(f["reason"] and f["id"].rsplit("/")[-1] not in f["reason"] for f in failures)
    summary = extract(config(root, tmp_path / "s.zarr"), progress=False)
    assert summary.extracted == 0 and sum(summary.failed.values()) == 2 and summary.already_whole == 4
    shutil.copy(root / "train/dark/dark 1.mp4", root / "train/dark/broken.mp4")
    retried = extract(config(root, tmp_path / "s.zarr", retry_failed=True), progress=False)
    assert retried.whole == 5 and sum(retried.failed.values()) == 1
    assert stores.open(store.path).features(DEAR, 8).ok.sum() == 5


def test_a_limited_run_is_completed_by_one_without_a_limit(bright: Path, tmp_path: Path) -> None:
    store, _ = run(config(bright, tmp_path / "s.zarr", limit=4))
    labels = store.videos.labels[store.videos.exists]
    assert len(labels) == 4 and set(labels.tolist()) == {0, 1}
    whole, _ = run(config(bright, tmp_path / "s.zarr"))
    assert len(whole.videos.row_of) == 12
    np.testing.assert_array_equal(whole.features(DEAR, 8).ok[:, 0], whole.videos.exists)


def test_segments_are_rows_with_times_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_video(tmp_path / "in/long.mp4", frames=70, fps=10)
    store, _ = run(config(tmp_path / "in", tmp_path / "s.zarr", models=(CHEAP,), every_seconds=2.0))
    assert [name.rpartition("#")[2] for name in store.videos.ids if name] == [
        "t=0,2",
        "t=2,4",
        "t=4,6",
        "t=6,7",
    ]
    facts = store.features(CHEAP, 8).coverage.columns
    assert facts["frames"][:, 0].tolist() == [20, 20, 20, 10]
    np.testing.assert_allclose(facts["times_seconds"][:, 0, 0], [0, 2, 4, 6])


def test_two_devices_give_the_same_store_as_one(bright: Path, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # each of the two processes then gets one, as the serial run does
    try:
        run(config(bright, tmp_path / "two.zarr", devices=("cpu", "cpu")))
        torch.set_num_threads(1)
        run(config(bright, tmp_path / "one.zarr"))
    finally:
        torch.set_num_threads(threads)
    assert files_of(tmp_path / "two.zarr") == files_of(tmp_path / "one.zarr")


def test_a_forward_pass_in_a_thread_as_for_a_gpu_gives_the_same_store(
    bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU here: the thread computes on the CPU, from copies of the pixels as a GPU would."""
    run(config(bright, tmp_path / "plain.zarr", views=1))
    on_device = shards._on_device
    monkeypatch.setattr(shards, "_has_own_cores", lambda device: True)
    monkeypatch.setattr(shards, "_on_device", lambda *values: on_device(*values).clone())
    store, _ = run(config(bright, tmp_path / "thread.zarr", views=1))
    assert files_of(store.path) == files_of(tmp_path / "plain.zarr")


def test_weights_are_found_by_name_and_leave_their_provenance(
    bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, random = load_weights(CHEAP, allow_random=True)
    torch.manual_seed(1)
    trained = WeightsInfo(model=CHEAP, class_names=("dark", "light"), trained_on=("train/dark/dark 2.mp4",))
    saved = save_weights(build(CHEAP, 2), tmp_path / "weights" / f"{CHEAP}.safetensors", trained)
    store, _ = run(config(bright, tmp_path / "s.zarr", models=(CHEAP,), allow_random=False))
    features = store.features(CHEAP, 8)
    assert features.spec.weights_digest == saved.digest != random.digest
    assert not features.spec.weights_random
    assert features.class_names == ("dark", "light") and features.num_classes == 2
    assert features.trained_on == {"train/dark/dark 2.mp4"}
    assert np.isfinite(features.read_logits(np.arange(12), 0, 0)).all()
    with pytest.raises(ProvenanceMismatch, match="weights_digest: store has"):
        (tmp_path / "weights").rename(tmp_path / "elsewhere")
        extract(config(bright, store.path, models=(CHEAP,)), progress=False)


def test_mistakes_are_said_before_anything_is_written(bright: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"faster train-backbone.*--allow-random"):
        run(config(bright, tmp_path / "s.zarr", allow_random=False))
    with pytest.raises(UsageError, match="r2d14"):
        run(config(bright, tmp_path / "s.zarr", models=("r2d41",)))
    with pytest.raises(SourceError):
        run(config(tmp_path / "nowhere", tmp_path / "s.zarr"))
    assert not (tmp_path / "s.zarr").exists()
    with pytest.raises(UsageError, match="named twice"):
        config(bright, tmp_path / "s.zarr", models=(CHEAP, CHEAP))
    with pytest.raises(UsageError, match="1 --weights for 2 --model"):
        config(bright, tmp_path / "s.zarr", weights=("a",))
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StorageError):
        run(config(bright, blocked / "s.zarr"))


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.stress)]
)
def test_an_interrupted_run_ends_with_the_bytes_of_an_uninterrupted_one(
    bright: Path, tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is stopped when the first of its six shards is whole, and run again."""
    script = tmp_path / "stopped.py"
    script.write_text(
        "import os, sys\n"
        "from faster.extract import run\n"
        "import faster.store as stores\n"
        "commit = stores.ShardWriter.commit\n"
        "def stop_after_first(self):\n"
        "    receipt = commit(self)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "    return receipt\n"
        "if __name__ == '__main__':\n"
        "    run.shard_videos_for = lambda *_: 4\n"
        "    if sys.argv[1] == 'stop':\n"
        "        stores.ShardWriter.commit = stop_after_first\n"
        "    from faster.cli import main\n"
        "    main(sys.argv[2:])\n"
    )
    arguments = ["extract", str(bright), "--model", CHEAP, "--model", DEAR, "--allow-random", "--clips", "3"]
    arguments += ["--size", "32", "--devices", "cpu", "--store"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with interrupts():
        stopped = subprocess.run(
            [sys.executable, str(script), "stop", *arguments, str(tmp_path / "s.zarr")],
            env=environment,
            capture_output=True,
            text=True,
        )
    expected = {signal.SIGTERM: 75, signal.SIGKILL: -9, signal.SIGINT: 130}[number]
    assert stopped.returncode == expected, stopped.stderr
    assert "Traceback" not in stopped.stderr
    # Shards are committed in a thread: the signal may reach the main thread a little later.
    assert 1 <= len(list((tmp_path / "s.zarr").rglob("*.v0.json"))) < 6
    monkeypatch.setattr("faster.extract.run.shard_videos_for", lambda *_: 4)
    for name in ("s.zarr", "whole.zarr"):
        with one_thread():
            ended = inside.faster(*arguments, str(tmp_path / name))
        assert ended.returncode == 0, ended.stderr
    stopped_files, whole_files = files_of(tmp_path / "s.zarr"), files_of(tmp_path / "whole.zarr")
    left = {name for name in stopped_files if name.endswith(".tmp")}
    assert bool(left) <= (number == signal.SIGKILL)
    assert {k: v for k, v in stopped_files.items() if k not in left} == whole_files


def test_in_the_background_ctrl_c_does_not_stop_an_extraction(
    bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a job that a script started with `&`: the interrupt of another's terminal leaves it alone."""
    commit = stores.ShardWriter.commit

    def interrupted(self: stores.ShardWriter) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return commit(self)

    monkeypatch.setattr(stores.ShardWriter, "commit", interrupted)
    with interrupts(ignored=True):
        store, _ = run(config(bright, tmp_path / "s.zarr", models=(CHEAP,)))
    assert store.features(CHEAP, 8).ok.any()


def test_videos_of_another_root_are_taken_for_the_same_aloud(bright: Path, tmp_path: Path) -> None:
    run(config(bright, tmp_path / "s.zarr", models=(CHEAP,)))
    moved = Path(shutil.copytree(bright, tmp_path / "moved"))
    _, said = run(config(moved, tmp_path / "s.zarr", models=(CHEAP,)))
    assert any("are taken to be the same" in line for line in said)


def test_maps_that_are_gone_are_said_not_taken_for_whole(bright: Path, tmp_path: Path) -> None:
    store, _ = run(config(bright, tmp_path / "s.zarr", models=(CHEAP,)))
    (store.features(CHEAP, 8).folder / "maps/c/0/0/0/0/0/0/0").unlink()
    with pytest.raises(StoreError, match=r"faster verify .* --repair"):
        run(config(bright, tmp_path / "s.zarr", models=(CHEAP,)))


def test_an_unknown_device_is_said_at_the_door(bright: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no device 'cuda:9' here; there is: cpu"):
        run(config(bright, tmp_path / "s.zarr", devices=("cuda:9",)))


def test_a_dry_run_says_the_size_that_a_run_then_takes(tmp_path: Path) -> None:
    videos = make_bright_set(tmp_path / "videos", per_class=3, tests=1)
    path = tmp_path / "s.zarr"
    config = ExtractConfig(
        source=str(videos),
        models=(CHEAP,),
        store=str(path),
        allow_random=True,
        clips=2,
        size=64,
        dtype="uint8",
    )
    before = sorted(tmp_path.iterdir())
    would = estimate(config, progress=False)
    assert sorted(tmp_path.iterdir()) == before and would.free_bytes > would.store_bytes
    extract(config, progress=False)
    stored = sum(
        f.stat().st_size
        for name in ("maps", "scales", "logits")
        for f in path.glob(f"features/*/L8/{name}/c/**/*")
        if f.is_file()
    )
    assert (
        would.store_bytes == stored
    )  # scales and index are those of whole shards, however few videos there are
    assert stores.open(path).shard_videos > would.videos
    files = files_of(path)
    with pytest.raises(ProvenanceMismatch, match="clips: store has 2, asked 3"):
        estimate(replace(config, clips=3), progress=False)
    estimate(config, progress=False)
    assert files_of(path) == files


def test_what_failed_is_retried_only_where_that_loses_no_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven videos, one of them bad; two good ones are deleted, put back, and the retry is killed half-way."""
    root, path = make_bright_set(tmp_path / "videos", per_class=3, tests=1), tmp_path / "s.zarr"
    bad = root / "train/dark/broken.mp4"
    bad.write_bytes(b"not a video at all")
    once, retry = config(root, path), config(root, path, retry_failed=True)
    store, _ = run(once)
    before = files_of(path)
    kept = tmp_path / "kept"
    kept.mkdir()
    gone = [root / "train/light/light 2.mp4", root / "train/dark/dark 1.mp4"]
    for file in gone:
        shutil.copy(file, kept)
        file.unlink()
    said: list[str] = []
    with logged(said):
        summary = extract(retry, progress=False)
    assert summary.extracted == 0 and store.features(CHEAP, 8).ok.sum() == 6
    assert [line for line in said if str(gone[1]) in line and "(nor are 1 more)" in line], said
    assert files_of(path) == before
    for file in gone:
        shutil.copy(kept / file.name, file)
    shutil.copy(gone[1], bad)

    class Killed(BaseException):
        pass

    unlink = os.unlink

    def killing(name: Path, **named: int) -> None:
        if "/logits/c/" in str(name) or "/maps/c/" in str(name):
            raise Killed
        unlink(name, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", killing)
        with pytest.raises(Killed), logged(said):
            extract(retry, progress=False)
    assert list(path.glob("features/*/L8/maps/c/0/0/**/0")) and not list(path.rglob("*.v0.json"))
    with logged(said):
        summary = extract(once, progress=False)
    assert (summary.whole, summary.failed) == (7, {})
    run(config(root, tmp_path / "whole.zarr"))
    assert files_of(path) == files_of(tmp_path / "whole.zarr")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """As many as the processes that are told so by OMP_NUM_THREADS: the number may change a map's last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def test_an_extraction_does_not_import_torchs_compiler(bright: Path, tmp_path: Path) -> None:
    """It takes longer than all other imports together, and tracing a network's costs would import it."""
    code = (
        "import sys\n"
        "from faster.extract.run import ExtractConfig, extract\n"
        f"config = ExtractConfig(source={str(bright)!r}, models=({CHEAP!r},), store={str(tmp_path / 's.zarr')!r},\n"
        "    allow_random=True, clips=1, size=32, limit=2)\n"
        "if __name__ == '__main__':\n"
        "    extract(config, progress=False)\n"
        "    sys.exit('torch._dynamo' in sys.modules)\n"
    )
    (tmp_path / "extract.py").write_text(code)
    assert subprocess.run([sys.executable, str(tmp_path / "extract.py")], check=False).returncode == 0
