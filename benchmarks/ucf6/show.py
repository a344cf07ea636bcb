"""What a trial of run.py gave, as Markdown: the paper's tables and its sentences, each with the figure found here.

python benchmarks/ucf6/show.py --out FOLDER

Every figure is top-1 of videos in %, the mean over the splits and the aggregators' seeds. Behind ± stands the standard error
of that mean over the seeds, each seed being its mean over the splits, as `faster report` has it. A difference is taken run
by run, same split and seed on both sides, and its standard error is over these pairs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import click
from run import SPLITS

NAMES = {"average": "average", "concat": "concat", "lstm": "LSTM", "gru": "GRU", "fast-gru": "FAST-GRU"}
PATTERNS = ("all-E", "1:1", "1:3", "1:7", "1:15", "all-C")
Key = tuple[str, str, int, str | None, str | None]  # aggregator, pattern, N, expensive, cheap


@dataclass
class Cell:
    """One setting's runs.

    Attributes:
        top1: in %, by (split, seed).
        gflops: of a video.
    """

    top1: dict[tuple[str, int], float]
    gflops: float

    def __str__(self) -> str:
        seeds = self.by_seed()
        error = f" ± {stdev(seeds) / len(seeds) ** 0.5:.1f}" if len(seeds) > 1 else ""
        return f"{fmean(seeds):.1f}{error}"

    def by_seed(self) -> list[float]:
        """Each seed's mean over the splits."""
        found: dict[int, list[float]] = defaultdict(list)
        for (_, seed), value in self.top1.items():
            found[seed].append(value)
        return [fmean(values) for values in found.values()]

    def above(self, other: Cell) -> str:
        """How much better than another cell, run by run; a cell without seeds stands beside each of the other's."""
        pairs = [
            mine - theirs
            for (split, seed), mine in self.top1.items()
            for (its, other_seed), theirs in other.top1.items()
            if its == split and (seed == other_seed or len(self.by_seed()) == 1 or len(other.by_seed()) == 1)
        ]
        error = f" ± {stdev(pairs) / len(pairs) ** 0.5:.1f}" if len(pairs) > 1 else ""
        return f"{fmean(pairs):+.1f}{error}"


def read_cells(folders: Iterable[Path]) -> dict[Key, Cell]:
    """The finished cells of sweeps, those of one setting together."""
    cells: dict[Key, Cell] = {}
    for folder in folders:
        for line in map(json.loads, (folder / "cells.jsonl").read_text(encoding="utf-8").splitlines()):
            if "metrics" in line:
                key = tuple(line[name] for name in ("aggregator", "pattern", "clips", "expensive", "cheap"))
                _enter(cells, key, line, line["seed"])
    return cells


def read_budgets(folders: Iterable[Path]) -> dict[Key, Cell]:
    """Of aggregators for every budget, each mixture's own figure."""
    cells: dict[Key, Cell] = {}
    for folder in folders:
        for line in map(json.loads, (folder / "cells.jsonl").read_text(encoding="utf-8").splitlines()):
            if line.get("pattern") == "any" and "metrics" in line:
                for file in sorted((folder / line["run"] / "budgets").glob("*.json")):
                    one = json.loads(file.read_text(encoding="utf-8"))
                    key = (line["aggregator"], one["pattern"], one["clips"], line["expensive"], line["cheap"])
                    _enter(cells, key, one, line["seed"])
    return cells


def _enter(cells: dict[Key, Cell], key: Any, line: dict[str, Any], seed: int) -> None:
    cell = cells.setdefault(key, Cell({}, line["gflops_per_video"]))
    cell.top1[line["split"], seed] = 100 * line["metrics"]["top1"]


def table(head: list[str], rows: Iterable[list[object]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *([str(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


class Shown:
    """A trial's figures, by the names of its two backbones."""

    def __init__(self, out: Path) -> None:
        folders = [out / split / "sweep" for split in SPLITS]
        folders = [folder for folder in folders if (folder / "cells.jsonl").exists()]
        self.out, self.cells, self.budgets = out, read_cells(folders), read_budgets(folders)
        skips = [out / split / "skip" for split in SPLITS]
        self.skips = read_cells(folder for folder in skips if (folder / "cells.jsonl").exists())
        mixed = [key for key in self.cells if key[3] and key[4]]
        self.cheap = mixed[0][4]
        self.expensive = next(key[3] for key in mixed if key[0] == "concat")
        self.rival = next(key[3] for key in mixed if key[3] != self.expensive)
        self.clips = max(key[2] for key in mixed)

    def cell(self, aggregator: str, pattern: str, clips: int, expensive: str | None = None) -> Cell | None:
        """One setting's runs, if there are any."""
        dear, cheap = expensive or self.expensive, self.cheap
        names = (None if pattern == "all-C" else dear, None if pattern == "all-E" else cheap)
        return self.cells.get((aggregator, pattern, clips, *names))

    def averaged(self, clips: int) -> str:
        """The three backbones alone."""
        rows = []
        for model in (self.expensive, self.rival, self.cheap):
            for key, cell in self.cells.items():
                alone = key[1] == ("all-C" if model == self.cheap else "all-E")
                if key[0] == "average" and alone and model in key[3:] and key[2] == clips:
                    rows.append([model, f"{cell.gflops / clips:.4f}", cell])
        return table(["backbone", "GFLOPs a clip", f"average of {clips} clips"], rows)

    def by_clips(self) -> str:
        """Table 3: one expensive clip, N − 1 cheap ones."""
        lengths = [n for n in (2, 4, 8, 16) if self.cell("average", f"1:{n - 1}", n)]
        rows = [
            [name, *(self.cell(kind, f"1:{n - 1}", n) or "–" for n in lengths)]
            for kind, name in NAMES.items()
        ]
        costs = [f"{cell.gflops:.3f}" for n in lengths if (cell := self.cell("fast-gru", f"1:{n - 1}", n))]
        return table(["", *(f"N = {n}" for n in lengths)], [*rows, ["GFLOPs, FAST-GRU", *costs]])

    def by_pattern(self) -> str:
        """Table 4, all clips, with averaging and the aggregator for every budget beside it."""
        top = self.cell("average", "all-E", self.clips)
        rows = []
        for pattern in PATTERNS:
            ours = self.cell("fast-gru", pattern, self.clips)
            plain = self.cell("average", pattern, self.clips)
            every = self.budgets.get(("fast-gru", pattern, self.clips, self.expensive, self.cheap))
            cost = ours or every
            if cost and top:
                share = f"{cost.gflops:.3f} ({cost.gflops / top.gflops:.0%})"
                gap = every.above(ours) if every and ours else "–"
                rows.append([pattern, share, plain or "–", ours or "–", every or "–", gap])
        head = [
            "pattern",
            "GFLOPs (of all-E averaged)",
            "average",
            "FAST-GRU",
            "FAST-GRU `any`",
            "`any` above",
        ]
        return table(head, rows)

    def by_budget(self) -> str:
        """The aggregator for every budget beside those of one expensive clip."""
        rows = []
        for n in (2, 4, 8, 16):
            ours = self.cell("fast-gru", f"1:{n - 1}", n)
            every = self.budgets.get(("fast-gru", f"1:{n - 1}", n, self.expensive, self.cheap))
            if ours and every:
                rows.append([f"1:{n - 1}, N = {n}", ours, every, every.above(ours)])
        return table(["", "FAST-GRU of its own", "FAST-GRU `any`", "`any` above"], rows)

    def by_model(self) -> str:
        """Table 6: R3D in place of R(2+1)D."""
        rows = []
        for kind, pattern in (("average", "all-E"), ("fast-gru", "1:1"), ("fast-gru", "1:3")):
            row: list[object] = [f"{NAMES[kind]} {pattern}"]
            for model in (self.expensive, self.rival):
                cell = self.cell(kind, pattern, self.clips, model)
                row += [cell or "–", f"{cell.gflops:.3f}" if cell else "–"]
            rows.append(row)
        return table(["", self.expensive or "", "GFLOPs", self.rival or "", "GFLOPs"], rows)

    def claims(self) -> str:
        """The paper's sentences, each with the difference that speaks for or against it."""
        lengths = [n for n in (2, 4, 8, 16) if self.cell("average", f"1:{n - 1}", n)]
        first, last = lengths[0], lengths[-1]
        rows: list[list[object]] = []

        def say(sentence: str, what: str, a: Cell | None, b: Cell | None) -> None:
            if a and b:
                rows.append([sentence, what, a.above(b), f"{a.gflops / b.gflops:.2f}"])

        grown = [self.cell(kind, f"1:{n - 1}", n) for kind in NAMES for n in (first, last)]
        for i, name in enumerate(NAMES.values()):
            say(
                "with more cheap clips",
                f"{name}, N = {last} above N = {first}",
                grown[2 * i + 1],
                grown[2 * i],
            )
        for kind in ("average", "concat", "gru"):
            for n in lengths:
                say(
                    f"FAST-GRU beats {NAMES[kind]}",
                    f"1:{n - 1}, N = {n}",
                    self.cell("fast-gru", f"1:{n - 1}", n),
                    self.cell(kind, f"1:{n - 1}", n),
                )
        top = self.cell("average", "all-E", self.clips)
        for pattern in ("1:1", "1:3", "1:7", "1:15"):
            say(
                "reaches all-E averaging",
                f"FAST-GRU {pattern}",
                self.cell("fast-gru", pattern, self.clips),
                top,
            )
        return table(["sentence", "here", "difference, points", "cost ratio"], rows)

    def skipped(self) -> str:
        """With the averaged scores as a skip path, beside the plain ones and averaging."""
        top = self.cell("average", "all-E", self.clips)
        rows = []
        for pattern in ("1:1", "1:3", "1:7"):
            plain = self.cell("average", pattern, self.clips)
            for kind in ("gru", "fast-gru"):
                ours = self.skips.get((kind, pattern, self.clips, self.expensive, self.cheap))
                paper = self.cell(kind, pattern, self.clips)
                if ours and plain and top:
                    share = f"{ours.gflops:.3f} ({ours.gflops / top.gflops:.0%})"
                    gaps = [ours.above(other) if other else "–" for other in (paper, plain, top)]
                    rows.append([f"{NAMES[kind]} {pattern}", share, ours, paper or "–", *gaps])
        head = [
            "",
            "GFLOPs (of all-E averaged)",
            "with skip",
            "plain",
            "above plain",
            "above averaging",
            "above all-E averaged",
        ]
        return table(head, rows)

    def recipe(self) -> str:
        """Trained on maps that the backbones had seen, had not, and on cross-fitted ones."""
        folder, rows = self.out / "recipe", []
        for name in (
            "in-sample",
            "crossed",
            "aligned",
            "half0-seen",
            "half0-unseen",
            "half1-seen",
            "half1-unseen",
        ):
            if (folder / name / "cells.jsonl").exists():
                cells = read_cells([folder / name])
                found = {key[0]: cell for key, cell in cells.items()}
                rows.append([name, *(found.get(kind, "–") for kind in ("average", "gru", "fast-gru"))])
        return table(["maps", "average", "GRU", "FAST-GRU"], rows)

    def times(self) -> str:
        """Minutes of each step."""
        minutes: dict[str, float] = defaultdict(float)
        for line in map(json.loads, (self.out / "times.jsonl").read_text(encoding="utf-8").splitlines()):
            minutes[line["step"]] += line["seconds"] / 60
        rows = [[step, f"{value:.0f}"] for step, value in minutes.items()]
        return table(["step", "minutes"], [*rows, ["all", f"{sum(minutes.values()):.0f}"]])


@click.command()
@click.option(
    "--out", required=True, type=click.Path(exists=True, path_type=Path), help="A folder of run.py."
)
def main(out: Path) -> None:
    """Print a trial's tables."""
    shown = Shown(out)
    parts = {
        "Backbones (Table 2)": shown.averaged(shown.clips),
        "One expensive clip (Table 3)": shown.by_clips(),
        f"Patterns, N = {shown.clips} (Table 4)": shown.by_pattern(),
        "One aggregator for every budget": shown.by_budget(),
        "R3D in place of R(2+1)D (Table 6)": shown.by_model(),
        "The paper's sentences": shown.claims(),
        "What helps on few videos": shown.skipped(),
        "Maps to train on": shown.recipe(),
        "Times": shown.times(),
    }
    for title, text in parts.items():
        click.echo(f"## {title}\n\n{text}")


if __name__ == "__main__":
    main()
