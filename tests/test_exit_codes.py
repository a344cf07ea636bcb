"""Exit codes throughout the commands: 0 complete, 2 usage, 3 failed videos, 65 bad input, 74 the disk, 75 stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run_commands
from faster.errors import Interrupted
from faster.extract.video.decoder_pool import TIMEOUT_SECONDS
from faster.runtime.signals import interruptible, raise_if_stopped
from processes import started
from sets import make_bright_set
from stores import make_spec, make_store, make_videos

EXTRACT = ["--model", "r2d14-w4", "--allow-random", "--devices", "cpu", "--clips", "2", "--size", "32"]

# A command, its exit code, and a word of its one line. "s.zarr" is a sound store, "b.zarr" has a damaged shard,
# "file" is a file, "videos" holds eight videos of which one is broken.
CASES: list[tuple[str, int, str]] = [
    ("flops --model r2d26", 0, ""),
    ("models", 0, ""),
    ("inspect s.zarr", 0, ""),
    ("verify s.zarr --processes 1", 0, ""),
    ("train-agg --store s.zarr --aggregator average --epochs 1 --device cpu --out run", 0, ""),
    ("evaluate run --device cpu", 0, ""),
    ("flops --pattern 1:x", 2, "1:7"),
    ("models --surprise", 2, "--surprise"),
    ("inspect", 2, "STORE"),
    ("verify s.zarr --processes 0", 2, "--processes"),
    ("extract videos", 2, "--model"),
    ("extract videos --model r2d14-w4 --max-failed many", 2, "5%"),
    ("extract videos --model r2d14-w4 --max-failed 101%", 2, "5%"),
    ("extract videos --model r2d14-w4 --max-failed -1", 2, "5%"),
    ("extract videos --model r2d99", 2, "r2d14"),
    ("extract videos --model r2d14-w4 --devices tpu", 2, "cpu"),
    ("train-backbone videos --model r2d14-w4 --seed -1", 2, "--seed"),
    ("train-agg --store s.zarr --aggregator surprise", 2, "fast-gru"),
    ("train-agg --store s.zarr --pattern 1-7", 2, "1:7"),
    ("evaluate run --part all", 2, "--part"),
    ("predict videos", 2, "--run"),
    ("inspect nowhere.zarr", 65, "faster extract"),
    ("inspect file", 65, "faster extract"),
    ("verify nowhere.zarr", 65, "faster extract"),
    ("verify b.zarr --processes 1", 65, ""),
    ("extract nowhere --model r2d14-w4", 65, "nowhere"),
    ("extract videos --model r2d14-w4 --store no.zarr", 65, "--allow-random"),
    ("extract videos --model r2d14-w4 --store file", 65, "--store"),
    ("extract videos --model r2d14-w4 --weights file --store no.zarr", 65, "file"),
    ("train-backbone nowhere --model r2d14-w4", 65, "nowhere"),
    ("train-agg --store nowhere.zarr", 65, "faster extract"),
    ("train-agg --store s.zarr --clips 99", 65, "--clips"),
    ("evaluate nowhere", 65, "run folder"),
    ("predict videos --run nowhere", 65, "run folder"),
    ("extract videos --model r2d14-w4 --allow-random --store file/s.zarr", 74, "file"),
    ("train-agg --store s.zarr --aggregator average --epochs 1 --device cpu --out file/run", 74, "file"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    make_store(folder / "s.zarr", [make_spec()], make_videos(24), signal=True)
    make_store(folder / "b.zarr", [make_spec()], make_videos(4))
    next((folder / "b.zarr").rglob("maps/c/0/0/0/0/0/0/0")).write_bytes(b"damaged")
    (folder / "file").write_bytes(b"a file")
    make_bright_set(folder / "videos", per_class=4, tests=1)
    (folder / "videos/train/dark/dark 3.mp4").write_bytes(b"broken")
    return folder


def test_every_command_ends_with_the_code_of_what_happened(place: Path) -> None:
    preload = [
        "faster.aggregate.train",
        "faster.extract.run",
        "faster.extract.train_backbone.train",
        "faster.predict.predictor",
    ]
    ended = run_commands(
        [line.split() for line, _, _ in CASES], cwd=place, preload=preload, memory_bytes=8 << 30
    )
    wrong = []
    for (line, code, word), end in zip(CASES, ended, strict=True):
        if end.code != code or word not in end.errors or "Traceback" in end.errors:
            wrong.append(f"faster {line}: {end.code}, expected {code} and {word!r}: {end.errors[-300:]}")
        lines = [text for text in end.errors.splitlines() if text.startswith(("faster: ", "Error: "))]
        if code and "b.zarr" not in line and len(lines) != 1:
            wrong.append(f"faster {line}: {len(lines)} lines of error: {end.errors[-300:]}")
    assert not wrong, "\n".join(wrong)
    assert not (place / "no.zarr").exists()


def test_failed_videos_above_the_limit_end_in_3_and_the_others_are_whole(place: Path) -> None:
    limits = {"5%": 3, "12.5%": 0, "12.4%": 3, "0": 3, "1": 0}  # one of eight is broken
    commands = [
        ["extract", "videos", *EXTRACT, "--store", "f.zarr", "--max-failed", limit] for limit in limits
    ]
    commands += [["extract", "videos", *EXTRACT, "--store", "f.zarr"], ["inspect", "f.zarr"]]
    ended = run_commands(commands, cwd=place, preload=["faster.extract.run"], memory_bytes=8 << 30)
    assert [end.code for end in ended] == [*limits.values(), 3, 0], ended[0].errors
    assert "1 of 8 videos failed" in ended[0].errors and "7 whole, 1 failed" in ended[-1].output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_during_a_slow_decode_drops_the_shard_and_leaves_with_75(
    place: Path, tmp_path: Path, number: signal.Signals
) -> None:
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "import av\n"
        "from pathlib import Path\n"
        "def never(*_, **__):\n"
        "    Path(sys.argv[0]).with_name('decoding').touch()\n"
        "    time.sleep(600)\n"
        "av.open = never\n"  # also in the decoders: they import this file
        "if __name__ == '__main__':\n"
        "    from faster.cli import main\n"
        "    main(sys.argv[1:])\n"
    )
    command = [sys.executable, str(script), "extract", str(place / "videos"), *EXTRACT, "--store", "s.zarr"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with started(command, cwd=tmp_path, stderr=subprocess.PIPE, env=environment) as process:
        while not (tmp_path / "decoding").exists() and process.poll() is None:
            time.sleep(0.05)
        if number is signal.SIGTERM:
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)  # as a batch system warns: all processes of the job
        # Long before the decode is given up, which would end the wait as well, and on any machine.
        _, errors = process.communicate(timeout=TIMEOUT_SECONDS / 2)
    assert process.returncode == 75, errors
    assert f"stopped by {number.name}" in errors and "run the same command again" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("receipts/*"))


def test_a_signal_counts_once_and_also_where_its_exception_is_dropped() -> None:
    turns = 0
    with pytest.raises(Interrupted, match="stopped by SIGTERM; all is kept"), interruptible("all is kept"):
        with contextlib.suppress(Interrupted):  # as Python itself does in a destructor
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)  # does not break off the leaving
        turns += 1
        with interruptible("another"):
            raise_if_stopped()
        turns += 1
    assert turns == 1
    with interruptible("all is kept"):
        raise_if_stopped()  # the stop is over
