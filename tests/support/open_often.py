"""Load files over and over, in a process of its own; print how many bytes its memory grew by.

Run as a script: `open_often.py TIMES FILE …`. The first tenth of the times does not count: caches fill.
"""

from __future__ import annotations

import mmap
import sys
from contextlib import suppress
from pathlib import Path

from faster.errors import VideoError
from faster.extract.video.decode import load_clips


def resident_bytes() -> int:
    """The memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def main(times: int, files: list[Path]) -> None:
    """Load the files in turn, `times` times in all, and as many as a tenth of that before."""
    before = 0
    for turn in range(-times // 10, times):
        if turn == 0:
            before = resident_bytes()
        with suppress(VideoError):
            load_clips(files[turn % len(files)], clips=2, clip_frames=2, size=16)
    print(resident_bytes() - before)


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
