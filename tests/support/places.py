"""Where things lie: the repository, the scripts that tests start, and real media where there are any."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent
ROOT = SUPPORT.parents[1]
SHARED = ROOT.parent / "shared" / "data"
