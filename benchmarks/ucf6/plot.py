"""The trial's two pictures: accuracy against cost at all clips, and against the number of clips.

python benchmarks/ucf6/plot.py --out FOLDER --to docs/images/ucf6.png
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import click
import matplotlib
from show import NAMES, Cell, Shown

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STYLES = (
    ("o", "-", "#1b6ca8"),
    ("s", "--", "#c4500f"),
    ("^", "-.", "#2f7d32"),
    ("D", ":", "#7a3e9d"),
    ("v", "-", "#444444"),
)


def draw(axes: plt.Axes, label: str, cells: list[tuple[float, Cell]], style: tuple[str, str, str]) -> None:
    """One line: places, means, and standard errors over the seeds."""
    marker, line, colour = style
    seeds = [cell.by_seed() for _, cell in cells]
    errors = [stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0 for values in seeds]
    axes.errorbar(
        [place for place, _ in cells],
        [fmean(values) for values in seeds],
        errors,
        label=label,
        marker=marker,
        linestyle=line,
        color=colour,
        capsize=3,
        markersize=7,
        markerfacecolor="white" if line in ("--", ":") else colour,
    )


@click.command()
@click.option(
    "--out", required=True, type=click.Path(exists=True, path_type=Path), help="A folder of run.py."
)
@click.option("--to", required=True, type=click.Path(path_type=Path), help="The picture.")
def main(out: Path, to: Path) -> None:
    """Draw a trial's pictures."""
    shown = Shown(out)
    n, pair = shown.clips, (shown.expensive, shown.cheap)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", sharey=True)
    patterns = ("1:15", "1:7", "1:3", "1:1", "all-E")
    lines = {
        "averaged scores": [shown.cell("average", p, n) for p in ("all-C", *patterns)],
        "FAST-GRU": [shown.cell("fast-gru", p, n) for p in patterns],
        "FAST-GRU, one for any pattern": [shown.budgets.get(("fast-gru", p, n, *pair)) for p in patterns],
        "FAST-GRU with averaged scores": [shown.skips.get(("fast-gru", p, n, *pair)) for p in patterns],
    }
    for (label, cells), style in zip(lines.items(), STYLES, strict=False):
        draw(left, label, [(cell.gflops, cell) for cell in cells if cell], style)
    left.set(xscale="log", xlabel="GFLOPs a video (log scale)", ylabel="top-1, % of videos")
    left.set_title(f"{n} clips: all-C, 1:15, 1:7, 1:3, 1:1, all-E", fontsize=10)
    ticks = [0.5, 1, 2, 5]
    left.set_xticks(ticks, [str(tick) for tick in ticks])
    left.minorticks_off()
    lengths = [k for k in (2, 4, 8, 16) if shown.cell("average", f"1:{k - 1}", k)]
    for (kind, name), style in zip(NAMES.items(), STYLES, strict=True):
        cells = [(float(k), cell) for k in lengths if (cell := shown.cell(kind, f"1:{k - 1}", k))]
        draw(right, name, cells, style)
    right.set(xscale="log", xlabel="clips a video: one expensive, the others cheap")
    right.set_xticks(lengths, [str(k) for k in lengths])
    right.minorticks_off()
    right.set_title("Table 3's setting", fontsize=10)
    for axes in (left, right):
        axes.grid(axis="y", color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    to.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(to, dpi=110)


if __name__ == "__main__":
    main()
