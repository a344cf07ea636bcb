"""Kills at every kind of moment of an extraction: what is left is always whole, and a rerun completes it."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from extractor import Extractor
from faster import store as stores
from faster.store.maintain.verify import verify
from sets import make_bright_set

# Kills at each kind of step, spread over a run: waiting for decoders, forward, data written, files made durable,
# given their names, and replaced while finalising. And kills at random times.
STEP_KILLS = {"wait": 3, "call": 6, "add": 6, "fsync": 10, "link": 20, "replace": 12}
TIMED_KILLS = 15
COMMAND = [
    "--allow-random",
    "--devices",
    "cpu",
    "--model",
    "r2d14-w4",
    "--model",
    "r2plus1d14-w4",
    "--clips",
    "4",
    "--size",
    "32",
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bright_set(tmp_path_factory.mktemp("kills") / "videos", per_class=5)


def files_of(store: Path) -> dict[str, str]:
    """SHA-256 of every file but temporary ones."""
    return {
        str(p.relative_to(store)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(store.rglob("*"))
        if p.is_file() and not p.name.endswith(".tmp")
    }


def differing(a: dict[str, str], b: dict[str, str]) -> list[str]:
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def kill_and_complete(
    videos: Path, folder: Path, *, step_kills: Mapping[str, int], timed_kills: int
) -> Counter[str]:
    """Kill runs at steps spread over a whole run and at random times; returns how often each step was hit."""
    rng = np.random.default_rng(0)
    hit: Counter[str] = Counter()
    with Extractor(["extract", str(videos), *COMMAND], shard_videos=4) as extractor:
        extractor.run(folder / "first.zarr")
        began = time.monotonic()
        plain = extractor.run(folder / "whole.zarr")
        duration = time.monotonic() - began
        assert plain.code == 0 and len(plain.shards_begun()) == 6
        whole = files_of(folder / "whole.zarr")
        assert not differing(files_of(folder / "first.zarr"), whole)
        kills: list[tuple[tuple[str, int] | None, float | None]] = []
        for kind, count in step_kills.items():
            places = [at for at, name in enumerate(plain.steps) if name.split()[0] == kind]
            for at in np.linspace(0, len(places) - 1, count).round().astype(int).tolist():
                name = plain.steps[places[at]]
                kills.append(((name, plain.steps[: places[at] + 1].count(name)), None))
        kills += [(None, float(t)) for t in rng.uniform(0.02, 0.9, timed_kills) * duration]
        for i, (step, after) in enumerate(kills):
            store = folder / f"killed{i}.zarr"
            where = f"kill {i}: {step or after} (a run takes {duration:.2f} s)"
            killed = extractor.run(store, kill_at=step, kill_after=after)
            # How often a run waits for its decoders, and how long it takes, is not the same each time.
            assert killed.code == -9 or (killed.code == 0 and (step is None or "wait" in step[0])), where
            hit["time" if step is None else step[0].split()[0]] += killed.code == -9
            rerun = extractor.run(store)
            assert rerun.code == 0, where
            again = {shard for _, shard in killed.shards_begun() & rerun.shards_begun()}
            assert len(again) <= 1, f"{where}: shards {again} were done twice"
            assert not differing(files_of(store), whole), where
            verify(store, repair=True, progress=False, processes=1)
            assert not differing(files_of(store), whole) and not list(store.rglob("*.tmp")), where
            shutil.rmtree(store)
    return hit


def append_and_complete(videos: Path, folder: Path, *, links: int) -> int:
    """Kill runs that add videos to a store, at each of so many links; the old store stays as it was."""
    with Extractor(["extract", str(videos), *COMMAND], shard_videos=4) as extractor:
        extractor.run(folder / "old.zarr", "--limit", "4")
        old = {name: digest for name, digest in files_of(folder / "old.zarr").items() if is_for_good(name)}
        assert len(old) > 8
        plain = extractor.run(Path(shutil.copytree(folder / "old.zarr", folder / "whole.zarr")))
        whole = files_of(folder / "whole.zarr")
        assert len(plain.shards_begun()) == 4
        count = plain.steps.count("link before")
        for at in np.linspace(1, count, links).round().astype(int).tolist():
            store = Path(shutil.copytree(folder / "old.zarr", folder / f"killed{at}.zarr"))
            assert extractor.run(store, kill_at=("link before", at)).code == -9
            now = files_of(store)
            assert not [name for name in old if now.get(name) != old[name]], (
                f"link {at}: the old store changed"
            )
            assert stores.open(store).features("r2d14-w4", 8).ok[:4].all(), f"link {at}"
            assert extractor.run(store).code == 0
            assert not differing(files_of(store), whole), f"link {at}"
    return links


def is_for_good(name: str) -> bool:
    """Whether a file of a store is written once: neither derived nor the shape of an array that grows."""
    parts = name.split("/")
    return (
        "index" not in parts
        and parts[0] not in ("videos", "failures.jsonl")
        and parts[-2] not in ("maps", "logits")
        if len(parts) > 1
        else parts[0] == "zarr.json"
    )


def test_a_killed_run_is_completed_bit_for_bit(videos: Path, tmp_path: Path) -> None:
    kill_and_complete(videos, tmp_path, step_kills={"link": 2, "replace": 1}, timed_kills=1)


def test_a_killed_append_leaves_the_old_store_whole(videos: Path, tmp_path: Path) -> None:
    append_and_complete(videos, tmp_path, links=2)


@pytest.mark.stress
def test_kills_at_every_link_of_an_append_leave_the_old_store_whole(videos: Path, tmp_path: Path) -> None:
    print(
        f"\n{append_and_complete(videos, tmp_path, links=9)} kills of an append, the old store whole after each"
    )


@pytest.mark.stress
def test_kills_at_every_kind_of_moment_lose_nothing(videos: Path, tmp_path: Path) -> None:
    hit = kill_and_complete(videos, tmp_path, step_kills=STEP_KILLS, timed_kills=TIMED_KILLS)
    print(
        f"\n{sum(hit.values())} kills, each completed bit for bit, at most one shard done twice: {dict(hit)}"
    )
    assert sum(hit.values()) >= 50
    assert all(hit[kind] for kind in (*STEP_KILLS, "time"))
