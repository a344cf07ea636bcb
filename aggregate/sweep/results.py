"""The lines of a sweep's cells.jsonl: one a cell, finished, failed or empty."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import RunError
from ...runtime.atomic import replace
from ...store import Store
from ..data.mix import choose_mix
from ..runs import store_fingerprint
from .cells import Line
from .grid import Cell, EmptyCell

CELLS_FILE = "cells.jsonl"


class Book:
    """The lines of cells.jsonl by cell; the file is written whole after every change."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder, self.path, self.store = folder, folder / CELLS_FILE, store
        self.lines: dict[str, Line] = {line["cell"]: line for line in read_lines(self.path)}

    def enter(self, lines: Sequence[Line]) -> None:
        """Put lines in; what an earlier attempt said of the same cell goes."""
        self.lines |= {line["cell"]: line for line in lines}
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines.values())
        replace(self.path, text.encode())

    def is_finished(self, cell: Cell) -> bool:
        """Whether a cell has its figures and its run. Raises RunError where the store has changed since."""
        line = self.lines.get(cell.name, {})
        if "metrics" not in line or not (self.folder / line["run"] / "result.json").exists():
            return False
        if line["store_fingerprint"] != store_fingerprint(self.store, choose_mix(self.store, cell)):
            raise RunError(
                f"{self.store.path} has changed since {cell.name} was trained; sweep it as it is now, with another --out"
            )
        return True


def read_lines(path: Path) -> list[Line]:
    """The lines of a sweep's cells.jsonl, none where there is no such file. Raises RunError for a damaged one."""
    if not path.exists():
        return []
    try:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").split("\n") if text]
        for number, line in enumerate(lines, 1):
            if not _is_line(line):
                raise ValueError(f"line {number} is not a cell's")
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(
            f"{path} is damaged ({error}); remove it, finished cells are only reported again"
        ) from None
    return lines


def _is_line(line: Any) -> bool:
    """Whether JSON is what `CellRunner`, `failed_line` or `hole_line` give, as far as it is read again."""
    try:
        words = [line[name] for name in ("cell", "aggregator", "pattern")]
        names = [line[name] for name in ("expensive", "cheap")]
        counts = [line[name] for name in ("clips", "clip_frames", "seed")]
        numbers = []
        if "metrics" in line:
            words += [line["run"], line["store_fingerprint"]]
            numbers = [line["metrics"]["top1"], line["gflops_per_video"]]
        else:
            words.append(line["failed"] if "failed" in line else line["empty"])
    except (TypeError, KeyError):
        return False
    return (
        all(isinstance(word, str) for word in words)
        and all(isinstance(name, str | None) for name in names)
        and all(isinstance(count, int) for count in counts)
        and all(isinstance(number, int | float) for number in numbers)
    )


def hole_line(hole: EmptyCell) -> Line:
    """The line of a cell that cannot be."""
    return {"cell": hole.cell.name, **hole.cell.to_dict(), "empty": hole.reason}
