"""`faster` as a rank of several runs it; 9 where threads of the process group are left at its end. For torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from faster.cli import main

try:
    main(sys.argv[1:])
except SystemExit as ended:
    if ended.code:
        raise
names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
sys.exit(9 if any("gloo" in name for name in names) else 0)
