"""Kills training runs inside their saves, at lines of the code that commits a file: python killed_saves.py FOLDER KILLS.

Each kill is of a child of its own: SIGKILL before the line runs. Then the run is resumed, and must end with the
same bytes as the one that was never killed. Prints a JSON object of counts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import faster.runtime.atomic
from blobs import CONFIG, Blobs, contents, options
from faster.training.loop import fit
from safetensors.torch import load_file

COMMIT = faster.runtime.atomic.__file__


def train(folder: Path) -> None:
    fit(Blobs(), options(), folder, config=CONFIG, progress=False)


def traced(folder: Path, *, kill_at: int = 0) -> int:
    """Train, and return how many lines of the commit code ran; or kill this process before the given one."""
    lines = 0

    def local(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    sys.settrace(lambda frame, event, argument: local if frame.f_code.co_filename == COMMIT else None)
    train(folder)
    sys.settrace(None)
    return lines


def in_child(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does the work: 0, or minus a signal's number."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(root: Path, kills: int) -> None:
    train(root / "whole")
    whole = contents(root / "whole")
    lines = traced(root / "counted")
    counts = {"lines": lines, "kills": 0, "with_a_checkpoint": 0, "identical": 0}
    for i in range(kills):
        folder = root / f"killed{i}"
        kill_at = 1 + i * (lines - 1) // max(kills - 1, 1)
        assert in_child(lambda f=folder, at=kill_at: traced(f, kill_at=at)) == -signal.SIGKILL  # type: ignore[misc]
        counts["kills"] += 1
        for name in ("last.safetensors", "best.safetensors"):
            if (folder / name).exists():
                assert load_file(folder / name), name  # whole, at once after the kill
                counts["with_a_checkpoint"] += name == "last.safetensors"
        assert in_child(lambda f=folder: train(f)) == 0  # type: ignore[misc]
        counts["identical"] += contents(folder) == whole
        shutil.rmtree(folder)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
