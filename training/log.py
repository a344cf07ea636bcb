"""Log a training run's figures per epoch: metrics.jsonl, and TensorBoard events if that is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..runtime.atomic import replace

Log = Callable[[Mapping[str, float]], None]


def has_tensorboard() -> bool:
    """Return whether TensorBoard, an optional extra, is installed."""
    return importlib.util.find_spec("tensorboard") is not None


@contextmanager
def epoch_log(run_dir: Path, *, epochs_done: int) -> Iterator[Log]:
    """Yield a function that writes one epoch's figures, a dict with "epoch" counted from 1.

    Lines and events of epochs after `epochs_done` are dropped first: those epochs will be trained again.
    """
    path = run_dir / "metrics.jsonl"
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        replace(path, b"".join(lines[:epochs_done]))
    with _events(run_dir, epochs_done) as board:

        def write(line: Mapping[str, float]) -> None:
            # Append, do not replace: a kill may cut the last line, but that epoch is trained again.
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            board(line)

        yield write


@contextmanager
def _events(run_dir: Path, epochs_done: int) -> Iterator[Log]:
    if not has_tensorboard():
        yield lambda line: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(run_dir, purge_step=epochs_done + 1) as writer:

        def write(line: Mapping[str, float]) -> None:
            for name, value in line.items():
                if name != "epoch":
                    writer.add_scalar(name, value, int(line["epoch"]))

        yield write
