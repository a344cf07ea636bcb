"""The lines of a sweep's cells.jsonl: one per cell, finished, failed or empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from ...errors import RunError
from ...runtime.atomic import replace
from ...runtime.canonical_json import json_lines, read_as
from ...store import Store
from ..data.mix import choose_mix
from ..runs import store_fingerprint
from .cells import Line
from .grid import Cell, EmptyCell

CELLS_FILE = "cells.jsonl"


class _CellLine(Struct):
    """The fields of every line that are read again."""

    cell: str
    aggregator: str
    pattern: str
    expensive: str | None
    cheap: str | None
    clips: int
    clip_frames: int
    seed: int


class _Metrics(Struct):
    top1: float


class _FinishedLine(_CellLine):
    run: str
    store_fingerprint: str
    metrics: _Metrics
    gflops_per_video: float


class _FailedLine(_CellLine):
    failed: str


class _EmptyLine(_CellLine):
    empty: str


class ResultsLog:
    """The lines of cells.jsonl by cell; the complete file is rewritten after every change."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.path, self.store = folder, folder / CELLS_FILE, store
        self.lines: dict[str, Line] = {line["cell"]: line for line in read_lines(self.path)}

    def enter(self, lines: Sequence[Line]) -> None:
        """Add lines; they replace earlier lines of the same cells."""
        self.lines |= {line["cell"]: line for line in lines}
        replace(self.path, json_lines(self.lines.values()))

    def is_finished(self, cell: Cell) -> bool:
        """Whether a cell has its metrics and its run. Raises RunError if the store has changed since."""
        line = self.lines.get(cell.name, {})
        if "metrics" not in line or not (self.folder / line["run"] / "result.json").exists():
            return False
        if line["store_fingerprint"] != store_fingerprint(self.store, choose_mix(self.store, cell)):
            raise RunError(
                f"{self.store.path} has changed since {cell.name} was trained; sweep it as it is now, "
                "with another --out"
            )
        return True


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a sweep's cells.jsonl, none if the file is missing. Raises RunError if damaged."""
    if not path.exists():
        return []
    try:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").split("\n") if text]
        for number, line in enumerate(lines, 1):
            try:
                read_as(_kind(line), line)
            except ValueError as error:
                raise ValueError(f"line {number} is not a cell's: {error}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged ({error}); remove it, finished cells are only reported again"
        ) from None
    return lines


def _kind(line: Any) -> type[_CellLine]:
    keys = line if isinstance(line, dict) else {}
    return _FinishedLine if "metrics" in keys else _FailedLine if "failed" in keys else _EmptyLine


def hole_line(hole: EmptyCell) -> Line:
    """Return the line of an impossible cell."""
    return {"cell": hole.cell.name, **hole.cell.to_dict(), "empty": hole.reason}
