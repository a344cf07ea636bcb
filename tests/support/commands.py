"""Runs `faster` commands in one child process, one after another, and says how each ended and what it took."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One command's end.

    Attributes:
        code: its exit code, -1 where it left with a traceback, which `errors` then holds.
        seconds: of processor time. peak_bytes: the most memory that it added to the process.
    """

    code: int
    output: str
    errors: str
    seconds: float
    peak_bytes: int


def run_commands(
    commands: Sequence[Sequence[str]], *, cwd: Path, preload: Sequence[str] = (), memory_bytes: int = 1 << 30
) -> list[Ended]:
    """Run each of `commands` (without "faster") in `cwd`, allowed `memory_bytes` more than their imports take."""
    request = json.dumps(
        {"commands": list(map(list, commands)), "preload": list(preload), "bytes": memory_bytes}
    )
    child = subprocess.run(
        [sys.executable, __file__], input=request, capture_output=True, text=True, cwd=cwd, timeout=240
    )
    lines = child.stdout.splitlines()
    assert child.returncode == 0 and len(lines) == len(commands), (
        f"ended {child.returncode} in command {len(lines)}: {commands[min(len(lines), len(commands) - 1)]}\n{child.stderr}"
    )
    return [Ended(**json.loads(line)) for line in lines]


def _run(arguments: list[str]) -> Ended:
    from faster.cli import main

    output, errors = io.StringIO(), io.StringIO()
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
    before, began = _memory("VmHWM"), time.process_time()
    code = -1
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        except BaseException:
            traceback.print_exc()
    return Ended(
        code=code,
        output=output.getvalue(),
        errors=errors.getvalue(),
        seconds=time.process_time() - began,
        peak_bytes=_memory("VmHWM") - before,
    )


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


if __name__ == "__main__":
    import importlib
    from dataclasses import asdict

    request = json.load(sys.stdin)
    for module in ["faster.cli", *request["preload"]]:
        importlib.import_module(module)
    limit = _memory("VmSize") + request["bytes"]
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for arguments in request["commands"]:
        print(json.dumps(asdict(_run(arguments))), flush=True)
