"""Processes of a test: none outlives the block that it was started in, however that block ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`subprocess.Popen` in a process group of its own, which is killed at the block's end, and waited for."""
    with killed_after(subprocess.Popen(command, text=True, start_new_session=True, **options)) as process:
        yield process


@contextlib.contextmanager
def killed_after(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Kill its process group, which it leads, at the block's end, and wait for it."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def kill_started_with(variables: Mapping[str, str]) -> None:
    """Kill every process, but this one's helpers, that was started with these variables in its environment."""
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
            if wanted <= set((process / "environ").read_bytes().split(b"\0")) and not _helps(process):
                os.kill(int(process.name), signal.SIGKILL)


def _helps(process: Path) -> bool:
    """Whether it is what multiprocessing keeps beside this process for all its children."""
    parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    return parent == os.getpid() and b"multiprocessing.resource_tracker" in (process / "cmdline").read_bytes()
