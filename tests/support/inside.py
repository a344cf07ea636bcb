"""Runs a `faster` command in this process, which has imported what a new one would import again, for seconds."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

from faster.cli import main


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A command's end, named as in subprocess.CompletedProcess."""

    returncode: int
    stdout: str
    stderr: str


def faster(*arguments: str, cwd: Path | None = None) -> Ended:
    """`faster` with these arguments, in `cwd`."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or os.curdir),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
    return Ended(returncode=code, stdout=output.getvalue(), stderr=errors.getvalue())
