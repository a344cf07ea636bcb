"""What the commands that compute nothing take to start: `--help`, `models` and `flops`, ten runs each.

    python benchmarks/startup.py [--runs 10]

Processor seconds (user and system, of the command and its children) do not depend on what else runs; wall seconds do.
The last line is JSON: for each command the least and the median of both.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

COMMANDS = ("--help", "models", "flops")


def run(command: str) -> tuple[float, float]:
    """Processor and wall seconds of one run."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "faster.cli", command], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return spent, time.perf_counter() - began


def main() -> None:
    """Run each command once for the caches, then in turns, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10, help="of each command")
    runs = parser.parse_args().runs
    for command in COMMANDS:
        run(command)
    taken: dict[str, list[tuple[float, float]]] = {command: [] for command in COMMANDS}
    for _ in range(runs):
        for command in COMMANDS:
            taken[command].append(run(command))
    figures = {}
    for command, pairs in taken.items():
        processor, wall = zip(*pairs, strict=True)
        figures[command] = {
            "processor_s": {"min": min(processor), "median": statistics.median(processor)},
            "wall_s": {"min": min(wall), "median": statistics.median(wall)},
        }
        print(
            f"faster {command:<8} processor {min(processor):.2f} s at least, {statistics.median(processor):.2f} s median; "
            f"wall {min(wall):.2f} s, {statistics.median(wall):.2f} s"
        )
    rounded = {
        command: {kind: {name: round(s, 3) for name, s in values.items()} for kind, values in each.items()}
        for command, each in figures.items()
    }
    print(json.dumps({"runs": runs, "cpus": os.cpu_count(), "commands": rounded}))


if __name__ == "__main__":
    main()
