"""Kills inside a save: the checkpoint before it or the new one always loads, and the run ends as if never killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from places import SUPPORT

SCRIPT = SUPPORT / "killed_saves.py"


@pytest.mark.parametrize("kills", [8, pytest.param(120, marks=pytest.mark.stress)])
def test_a_kill_at_any_line_of_a_save_loses_nothing(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    print(
        f"\n{counts['kills']} kills over {counts['lines']} lines of saves: {counts['identical']} ended the same"
    )
    assert counts["identical"] == counts["kills"] == kills
    assert counts["lines"] > 100 and counts["with_a_checkpoint"] >= kills // 2
