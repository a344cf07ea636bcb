"""The disk fails: full, read-only, an error in any one call. One line, 74, no receipt of what is hurt; a rerun completes."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inside
import numpy as np
import pytest
from faster import store as stores
from faster.errors import StorageError
from faster.store.format import manifest as manifests
from faster.store.format.receipts import list_receipts
from faster.store.maintain.convert import convert
from faster.store.maintain.verify import verify
from faster.store.write import create as writer
from mounts import mounted
from sets import make_bright_set
from stores import make_facts, make_maps, make_spec, make_store, make_videos

SPEC = make_spec(dtype="uint8")
VIDEOS = 4


class Faults:
    """Lets the calls that change the disk fail: the `at`-th of them, counted from 1; 0 for none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = self.count = 0
        self.name = ""
        for name in ("link", "replace", "mkdir"):
            monkeypatch.setattr(os, name, self._failing(getattr(os, name), name))
        monkeypatch.setattr(os, "fsync", lambda _: self.step("fsync"))  # no power is cut here
        opened = io.open
        faults = self

        class FailingFile(io.FileIO):
            def write(self, data: Any, /) -> int:
                faults.step("write")
                return super().write(data)

        def failing_open(file: Any, mode: str = "r", *values: Any, **named: Any) -> Any:
            if mode != "xb":
                return opened(file, mode, *values, **named)
            self.step("create")
            return io.BufferedWriter(FailingFile(file, mode))

        monkeypatch.setattr(io, "open", failing_open)

    def step(self, name: str) -> None:
        self.count += 1
        if self.count == self.at:
            self.name = name
            raise OSError(errno.ENOSPC if self.count % 2 else errno.EIO, "the disk failed")

    def _failing(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def failing(*values: Any, **named: Any) -> Any:
            if (
                name != "mkdir" or not Path(values[0]).exists()
            ):  # of one that is there, an error means nothing
                self.step(name)
            return call(*values, **named)

        return failing


def make_whole(path: Path) -> None:
    """A store of one shard, from nothing; what is there already is left."""
    shard_videos = writer.create(path, shard_videos=VIDEOS).shard_videos
    manifest = manifests.append(
        path,
        videos=make_videos(VIDEOS),
        missing=(),
        class_names="abc",
        root=Path("videos"),
        shard_videos=shard_videos,
    )
    writer.declare(path, SPEC, recorded={"gflops_per_clip": 1.0}, trained_on=["x"])
    writer.fit_arrays(path, SPEC, manifest, shard_videos)
    if not list_receipts(path / SPEC.folder):
        with stores.ShardWriter(
            path, SPEC, manifest=manifest, shard=0, view=0, shard_videos=shard_videos
        ) as shard_writer:
            for row in range(VIDEOS):
                shard_writer.add(row, *make_maps(SPEC, row), make_facts(SPEC))
            shard_writer.commit()
    stores.finalise(stores.open(path))


def files_of(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.stress)])
def test_an_error_of_any_one_call_hurts_nothing_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    make_whole(tmp_path / "whole.zarr")
    whole = files_of(tmp_path / "whole.zarr")
    faults = Faults(monkeypatch)
    path = tmp_path / "s.zarr"
    hit: set[str] = set()
    while True:
        faults.count, faults.at, faults.name = 0, faults.at + every, ""
        message = ""
        try:
            make_whole(path)
        except StorageError as error:
            message = str(error)
        where = f"call {faults.at}, {faults.name}"
        assert bool(message) == bool(faults.name), f"{where}: ended with {message!r}"
        if not message:
            break
        assert "run the same command again" in message, f"{where}: {message}"
        hit.add(faults.name)
        faults.at, failed_at = 0, faults.at
        if list_receipts(path / SPEC.folder):  # then its shard is whole, whatever failed after it
            assert not verify(path, progress=False, processes=1).bad, where
        make_whole(path)
        assert files_of(path) == whole or _leftovers_only(path, whole), where
        shutil.rmtree(path)
        faults.at = failed_at
    assert hit == {"create", "write", "fsync", "link", "replace", "mkdir"} and faults.at > 60
    assert files_of(path) == whole
    print(
        f"\n{(faults.at - 1) // every} of {faults.count} calls failed in turn: each told, each mended by a rerun"
    )


def _leftovers_only(path: Path, whole: dict[str, bytes]) -> bool:
    """Whether what differs from `whole` are temporary files, which verify --repair removes."""
    verify(path, repair=True, progress=False, processes=1)
    return files_of(path) == whole


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bright_set(tmp_path_factory.mktemp("disk") / "videos", per_class=2, tests=1)


def arguments(videos: Path, store: Path, weights: str = "") -> list[str]:
    command = ["extract", str(videos), "--devices", "cpu"]
    command += ["--model", "r2d14-w4", "--clips", "2", "--size", "8", "--store", str(store)]
    return [*command, *(["--weights", weights] if weights else ["--allow-random"])]


def extract(videos: Path, store: Path, *before: str, weights: str = "") -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "faster.cli", *arguments(videos, store, weights)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def require_one_line_of_the_disk(ended: subprocess.CompletedProcess[str]) -> str:
    assert ended.returncode == 74, ended.stderr
    (line,) = [text for text in ended.stderr.splitlines() if text.startswith("faster: ")]
    assert "Traceback" not in ended.stderr
    return line


def test_a_limit_on_file_sizes_ends_the_command_and_a_rerun_completes(videos: Path, tmp_path: Path) -> None:
    """A file that cannot grow any further, as on a full disk: here the limit of `ulimit -f`, in the shard's data."""
    limited = (
        "bash",
        "-c",
        'ulimit -f 20; exec "$@"',
        "limited",
    )  # KiB; the shard has 32, nothing else as much
    line = require_one_line_of_the_disk(extract(videos, tmp_path / "s.zarr", *limited))
    assert "s.zarr" in line and "ulimit" in line
    assert not list((tmp_path / "s.zarr").rglob("receipts/*")) and not list(tmp_path.rglob("*.tmp"))
    assert inside.faster(*arguments(videos, tmp_path / "s.zarr")).returncode == 0
    assert stores.open(tmp_path / "s.zarr").features("r2d14-w4", 8).ok.all()


def test_a_full_disk_ends_the_command_before_a_receipt(videos: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    # The disk goes with its namespace, so what it holds is listed inside.
    after = f'bash -c \'"$@"; code=$?; find {disk} -name "*.v0.json"; exit $code\' listed'
    prefix = mounted(tmp_path, f'mount -t tmpfs -o size=40k tmpfs {disk} && set -- {after} "$@"')
    ended = extract(videos, disk / "s.zarr", *prefix)
    line = require_one_line_of_the_disk(ended)
    assert "No space left" in line and "free some space" in line and ".v0.json" not in ended.stdout


def test_a_read_only_store_is_found_out_before_a_network_is_loaded(videos: Path, tmp_path: Path) -> None:
    prefix = mounted(tmp_path, f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}")
    weights = tmp_path / "no.safetensors"
    weights.write_bytes(b"no weights")  # would end in 65, were they read first
    ended = extract(videos, tmp_path / "new" / "s.zarr", *prefix, weights=str(weights))
    assert "read-only" in require_one_line_of_the_disk(ended).lower()


@pytest.mark.parametrize("place", ["/proc/x.zarr", "/proc/self/a/x.zarr"])
def test_a_file_system_that_holds_no_files_is_one_line(tmp_path: Path, place: str) -> None:
    with pytest.raises(StorageError, match=f"^{place}: /proc.* takes no store .*; choose another place"):
        writer.require_writable(Path(place))
    source = make_store(tmp_path / "s.zarr", [make_spec()], make_videos(2))
    with pytest.raises(StorageError, match=f"^{place}: /proc.* takes no store"):
        convert(source.path, place, progress=False)


def test_what_was_hurt_reads_as_it_should_after_the_rerun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    faults.at = 60
    with pytest.raises(StorageError):
        make_whole(tmp_path / "s.zarr")
    faults.at = 0
    make_whole(tmp_path / "s.zarr")
    maps = stores.open(tmp_path / "s.zarr").features("r2d26", 8).read_maps(3, 0, np.arange(4))
    np.testing.assert_allclose(maps, make_maps(SPEC, 3)[0], atol=0.02)
