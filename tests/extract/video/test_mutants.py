"""Thousands of damaged files: none crashes or hangs, each ends once, and what is called ok is what plain decoding gives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from faster.extract.video.decode import LoadedVideo
from faster.extract.video.decoder_pool import DecodeJob, DecoderPool
from mutated_media import FRAMES, load_and_compare, make_parents, mutate

CLIPS = {"clips": 4, "clip_frames": 4, "size": 16}
SHAPE = (4, 4, 16, 16, 3)


def run_mutants(folder: Path, count: int) -> str:
    """Load `count` mutants of each parent; return their counts in one line."""
    parents = make_parents(folder)
    mutant = folder / "mutants"
    mutant.mkdir()

    def jobs() -> Iterator[DecodeJob[tuple[str, int]]]:
        for name, data in parents.items():
            for seed in range(count):
                path = mutant / f"{seed}-{name}"
                path.write_bytes(mutate(data, np.random.default_rng([seed, len(data)])))
                yield DecodeJob(key=(name, seed), path=path, arguments=CLIPS, load=load_and_compare)

    outcomes: Counter[str] = Counter()
    keys = []
    wrong = []
    with DecoderPool(2, shape=SHAPE, slots=4, timeout_seconds=30) as pool:
        for key, result in pool.run(jobs()):
            keys.append(key)
            if isinstance(result, LoadedVideo):
                outcomes["ok" if result.frames == FRAMES else "ok with another number of frames"] += 1
                continue
            # A VideoError begins with the file's name; all else is a crash, a hang, or an exception of another kind.
            if result.reason.startswith(f"{key[1]}-{key[0]}: "):
                reason = result.reason.split(": ", 1)[1]
                outcomes[re.sub(r"\(.*\)|\d+|;.*", "…", reason)] += 1
            else:
                wrong.append((key, result.reason))
            (mutant / f"{key[1]}-{key[0]}").unlink()
    assert wrong == []
    assert keys == [(name, seed) for name in parents for seed in range(count)]
    assert outcomes.total() == count * len(parents)
    return f"{outcomes.total()} mutants: " + ", ".join(
        f"{n} {reason}" for reason, n in outcomes.most_common()
    )


def test_a_few_mutants(tmp_path: Path) -> None:
    run_mutants(tmp_path, 15)


@pytest.mark.stress
def test_two_thousand_mutants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = run_mutants(tmp_path, 520)
    with capsys.disabled():
        print(f"\n  {counts}")
    assert "ok" in counts
