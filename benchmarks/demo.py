"""The whole demo at several seeds: does it show the trade-off each time, and what does it take?

python benchmarks/demo.py --out FOLDER                  seeds 0, 1 and 2, one after the other

Each seed draws its own videos, trains its own backbones and its own aggregators. Prints a table a seed, and one JSON line:
seconds by the clock, processor seconds of all processes, and each row's mean accuracy. `ONEDNN_MAX_CPU_ISA=AVX2
ATEN_CPU_CAPABILITY=avx2` before it makes a newer processor act as an ordinary one. Start it in a new folder: what is done
already takes no time.
"""

from __future__ import annotations

import json
import logging
import resource
import time
from pathlib import Path
from typing import Any

import click
from faster.demo.run import DemoConfig, DemoResult, demo


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended: user and system."""
    usages = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def run(seed: int, out: Path) -> tuple[DemoResult, dict[str, Any]]:
    """One demo, and what is said of it in the JSON line: seconds, and top-1 in % by row."""
    started, processor = time.perf_counter(), processor_seconds()
    result = demo(DemoConfig.of_seed(seed, folder=str(out / f"seed-{seed}")), progress=False)
    top1 = {f"{row.aggregator} {row.pattern}": round(100 * row.mean, 1) for row in result.rows}
    return result, {
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(processor_seconds() - processor, 1),
        "steps": {name: round(seconds, 1) for name, seconds in result.seconds.items()},
        "backbones": [round(100 * (backbone.test_top1 or 0), 1) for backbone in result.backbones],
        "top1": top1,
        "all_e_above_all_c": round(top1["fast-gru all-E"] - top1["fast-gru all-C"], 1),
    }


def shows(top1: dict[str, float]) -> bool:
    """Whether FAST-GRU gains 5 points by expensive clips, with 1:3 between, and averaging is below all of it."""
    low, middle, high = (top1[f"fast-gru {pattern}"] for pattern in ("all-C", "1:3", "all-E"))
    average = max(value for name, value in top1.items() if name.startswith("average"))
    return high - low >= 5 and low < middle < high and average < low


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A folder for a folder a seed.")
@click.option("--seed", "seeds", multiple=True, type=int, default=(0, 1, 2), show_default=True)
def main(out: Path, seeds: tuple[int, ...]) -> None:
    """Run the demo once a seed."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    runs = []
    for seed in seeds:
        result, figures = run(seed, out)
        click.echo(f"seed {seed}\n{result.files.table_text}")
        runs.append({**figures, "shows_the_trade_off": shows(figures["top1"])})
    click.echo(json.dumps({"demo": runs}))


if __name__ == "__main__":
    main()
