"""File systems of a test's own: full or read-only, also for root."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def mounted(tmp_path: Path, mount: str) -> tuple[str, ...]:
    """A prefix for commands that run where `mount` was done; skips where that is not permitted."""
    prefix = (
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "bash",
        "-c",
        f'{mount} && exec "$@"',
        "mounted",
    )
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("mounting in a namespace of one's own is not permitted here")
    return prefix
