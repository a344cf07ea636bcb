"""What training frees stays with the process, unless the environment says otherwise."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

ALLOCATE = """
import resource, sys
import numpy as np
from faster.runtime.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for turn in range(6):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(size << 20, np.uint8) for size in (3, 40, 20, 70)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is set")
@pytest.mark.parametrize(
    ("call", "environment", "kept"),
    [("keep", {}, True), ("leave", {}, False), ("keep", {"MALLOC_TRIM_THRESHOLD_": "131072"}, False)],
)
def test_freed_memory_is_used_again(call: str, environment: dict[str, str], kept: bool) -> None:
    run = subprocess.run(
        [sys.executable, "-c", ALLOCATE, call],
        env={"NUMPY_MADVISE_HUGEPAGE": "0", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    faults = int(run.stdout)
    pages = 4 * (133 << 20) // 4096  # of the four turns that are counted
    assert faults < pages / 100 if kept else faults > pages / 2
