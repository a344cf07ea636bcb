"""`faster` as rank 1 of several would run it, killed before step 1 of epoch 1; for torchrun."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from faster.aggregate.data.loader import TrainLoader
from faster.cli import main

plan = TrainLoader.plan


def dying(self: TrainLoader, epoch: int, step: int) -> Any:
    if (epoch, step) == (1, 1) and self.ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return plan(self, epoch, step)


TrainLoader.plan = dying  # type: ignore[method-assign]
main(sys.argv[1:])
