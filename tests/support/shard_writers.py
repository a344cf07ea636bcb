"""Writers of one store as processes of their own: each in its own order, each with values of its own last bits.

    python shard_writers.py STORE SEED SHARDS STOP_AT

Writes every shard that has no receipt, and finalises. Stops itself (SIGSTOP) at its commit step STOP_AT, 0 for never.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster import store as stores
from faster.store.format.receipts import list_receipts
from numpy.typing import NDArray
from stores import make_facts, make_maps


def write_at_once(store: Path, *, shards: int, stop_at: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Start a writer for each of `stop_at`, wake those that stop while others work or have ended; their exit codes."""
    writers = [
        subprocess.Popen([sys.executable, __file__, str(store), str(seed), str(shards), str(at)])
        for seed, at in enumerate(stop_at)
    ]
    try:
        return _codes(writers, rng)
    finally:
        for writer in writers:
            if writer.returncode is None:
                writer.kill()
                writer.wait()


def _codes(writers: list[subprocess.Popen[bytes]], rng: np.random.Generator) -> list[int]:
    asleep: list[subprocess.Popen[bytes]] = []
    codes: dict[int, int] = {}
    while len(codes) < len(writers):
        awake = [w for w in writers if w.pid not in codes and w not in asleep]
        if asleep and (not awake or rng.random() < 0.2):
            os.kill(asleep.pop(int(rng.integers(len(asleep)))).pid, signal.SIGCONT)
            continue
        for writer in awake:
            pid, status = os.waitpid(writer.pid, os.WUNTRACED | os.WNOHANG)
            if pid and os.WIFSTOPPED(status):
                asleep.append(writer)
            elif pid:
                codes[pid] = writer.returncode = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)  # between two looks at processes, not for their sake
    return [codes[writer.pid] for writer in writers]


def perturbed(values: NDArray[Any], seed: int) -> NDArray[Any]:
    """Other threads, other devices: a value here and there differs by its last bit."""
    moved = values.copy()
    chosen = np.random.default_rng(seed).random(values.shape) < 0.1
    moved[chosen] = np.nextafter(values, values.dtype.type(np.inf))[chosen]
    return moved


def _write(path: Path, seed: int, shards: int, stop_at: int) -> None:
    links = 0

    def stopping(link: Any) -> Any:
        def linked(*values: Any) -> None:
            nonlocal links
            links += 1
            if links == stop_at:
                os.kill(os.getpid(), signal.SIGSTOP)
            link(*values)
            if -links == stop_at:
                os.kill(os.getpid(), signal.SIGSTOP)

        return linked

    os.link = stopping(os.link)
    store = stores.open(path)
    (spec,) = [store.features(*key).spec for key in store.models]
    folder = path / spec.folder
    for shard in np.random.default_rng(seed).permutation(shards).tolist():
        if (shard, 0) in list_receipts(folder):
            continue
        with stores.ShardWriter(
            path, spec, manifest=store.videos, shard=shard, view=0, shard_videos=store.shard_videos
        ) as writer:
            for row in range(
                shard * store.shard_videos, min((shard + 1) * store.shard_videos, store.videos.rows)
            ):
                maps, logits = make_maps(spec, row)
                writer.add(row, perturbed(maps, seed), perturbed(logits, seed), make_facts(spec))
            writer.commit()
    stores.finalise(stores.open(path))


if __name__ == "__main__":
    _write(Path(sys.argv[1]), *map(int, sys.argv[2:]))
