"""The paper's claims tried on six classes of UCF-101, everything from the videos, by the public commands.

python benchmarks/ucf6/run.py --data DIR --out FOLDER              two CPU cores, about 100 minutes
python benchmarks/ucf6/run.py --data DIR --out FOLDER --full       the paper's networks at 224, for a GPU
python benchmarks/ucf6/run.py --data DIR --out FOLDER --only recipe

DIR holds UCF-101/ (class folders) and ucfTrainTestlist/ (the official lists). Stopped and run again, it goes on where
it was, as each of the product's commands does. What each took stands in FOLDER/times.jsonl; `show.py` prints the
figures that the docs show.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
from crossfit import cross_fit

SPLITS = ("split1", "split2", "split3")
FOLDS = 2
PATTERNS = "all-E,1:1,1:3,1:7,1:15,all-C"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Networks, sizes and lengths of a whole trial.

    Attributes:
        expensive, rival, cheap: R(2+1)D, R3D in its place (Table 6) and R2D, each with its frame size.
        clips: M of the stores.
        views: augmented views beside the centre one.
        epochs: of the backbones; of each video one clip an epoch.
    """

    expensive: tuple[str, int]
    rival: tuple[str, int]
    cheap: tuple[str, int]
    clips: int
    views: int
    epochs: int


SMALL = Setting(
    expensive=("r2plus1d26-w16", 112),
    rival=("r3d26-w16", 112),
    cheap=("r2d14-w16", 72),
    clips=16,
    views=2,
    epochs=45,
)
FULL = Setting(
    expensive=("r2plus1d50", 224),
    rival=("r3d50", 224),
    cheap=("r2d26", 224),
    clips=32,
    views=2,
    epochs=45,
)


@dataclass(frozen=True)
class Trial:
    """Runs the product's commands into a folder, and notes what each took."""

    setting: Setting
    data: Path
    out: Path

    def run(self, step: str, *words: object) -> None:
        """One command, and a line in times.jsonl. Ends the script where it fails."""
        command = [str(word) for word in words]
        print(f"\n[{step}] faster {shlex.join(command)}", flush=True)
        began = time.monotonic()
        code = subprocess.run([sys.executable, "-m", "faster.cli", *command], check=False).returncode
        line = {"step": step, "command": command, "seconds": time.monotonic() - began, "code": code}
        with (self.out / "times.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if code:
            raise SystemExit(code)

    def train(self, split: str, weights: Path, *models: tuple[str, int], fold: int | None = None) -> None:
        """Stage one on a split's training list, from scratch; `fold` is left out."""
        for model, size in models:
            words: list[object] = ["--folds", FOLDS, "--fold", fold] if fold is not None else []
            self.run(
                "backbones",
                *("train-backbone", self.data / "UCF-101", "--allow-missing", "--split", split),
                *("--model", model, "--size", size, "--epochs", self.setting.epochs),
                *("--label-smoothing", 0.1, "--precision", "bf16", "--validation-share", 0),
                *("--cache", "uint8", "--cache-folder", self.out / f"cache{size}", "--out", weights, *words),
            )

    def extract(self, store: Path, weights: Path, *models: tuple[str, int], views: int = 0) -> None:
        """Every clip of every video, of all splits, through the networks."""
        words = [
            word
            for model, _ in models
            for word in ("--model", model, "--weights", weights / f"{model}.safetensors")
        ]
        self.run(
            "extract",
            *("extract", self.data / "UCF-101", "--allow-missing", "--clips", self.setting.clips),
            *("--views", views, "--store", store, *words),
        )

    def sweep(self, store: Path, split: str, *grid: object, seeds: int = 3, out: Path | None = None) -> None:
        """Aggregators on a split's own store."""
        self.run(
            "aggregators",
            *("sweep", "--store", store, "--split", split, "--seeds", seeds, *grid),
            *("--precision", "bf16", "--out", out or self.out / split / "sweep"),
        )

    # The steps -----------------------------------------------------------------------------------------------

    def backbones(self) -> None:
        """Three networks a split, and their maps."""
        models = (self.setting.expensive, self.setting.rival, self.setting.cheap)
        for split in SPLITS:
            folder = self.out / split
            self.train(split, folder / "weights", *models)
            self.extract(folder / "ucf6.zarr", folder / "weights", *models, views=self.setting.views)

    def recipe(self) -> None:
        """On the first split: aggregators trained on maps that backbones knew by heart, on unseen ones, on cross-fitted ones."""
        split, models = SPLITS[0], (self.setting.expensive, self.setting.cheap)
        folder = self.out / "recipe"
        whole = folder / "whole.zarr"
        self.extract(whole, self.out / split / "weights", *models)
        halves = []
        for fold in range(FOLDS):
            weights = folder / f"fold{fold}"
            self.train(split, weights, *models, fold=fold)
            self.extract(folder / f"fold{fold}.zarr", weights, *models)
            halves.append(folder / f"fold{fold}.zarr")
        grid = ("--aggregators", "average,gru,fast-gru", "--patterns", "1:7", "--clips", 8)
        self.sweep(whole, split, *grid, out=folder / "in-sample")
        for name, align in (("crossed", False), ("aligned", True)):
            if not (folder / name).exists():
                cross_fit(folder / f"{name}.zarr", whole=whole, folds=halves, align=align)
            self.sweep(folder / f"{name}.zarr", split, *grid, out=folder / name)
        for fold, store in enumerate(halves):
            self.sweep(store, split, *grid, "--unseen", out=folder / f"half{fold}-unseen")
            self.sweep(store, split, *grid, out=folder / f"half{fold}-seen")

    def tables(self) -> None:
        """The paper's grids on each split, and one aggregator for all of them."""
        expensive, cheap = self.setting.expensive[0], self.setting.cheap[0]
        for split in SPLITS:
            store = self.out / split / "ucf6.zarr"
            pair = ("--expensive", expensive, "--cheap", cheap)
            self.sweep(store, split, "--table", 2)
            self.sweep(store, split, "--table", 3, *pair)
            self.sweep(store, split, "--figure", 3, *pair)
            self.sweep(store, split, "--table", 4, *pair)
            self.sweep(store, split, "--table", 6, "--cheap", cheap)
            self.sweep(store, split, "--aggregators", "average", "--patterns", PATTERNS, *pair)
            self.sweep(store, split, "--aggregators", "fast-gru", "--patterns", "any", *pair)

    def skip(self) -> None:
        """Beside the plain ones, aggregators that start at the averaged scores, at a lower rate."""
        for split in SPLITS:
            self.sweep(
                self.out / split / "ucf6.zarr",
                split,
                *("--aggregators", "gru,fast-gru", "--patterns", "1:1,1:3,1:7"),
                *("--expensive", self.setting.expensive[0], "--cheap", self.setting.cheap[0]),
                *("--skip-scores", "--learning-rate", 0.03),
                out=self.out / split / "skip",
            )

    def report(self) -> None:
        """One page of the means over the splits."""
        sweeps = [self.out / split / "sweep" for split in SPLITS]
        self.run("report", "report", *sweeps, "--paper", "--out", self.out / "report" / "index.html")


STEPS: dict[str, Callable[[Trial], None]] = {
    "backbones": Trial.backbones,
    "tables": Trial.tables,
    "skip": Trial.skip,
    "report": Trial.report,
    "recipe": Trial.recipe,
}


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path), help="See above.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Where everything goes: 20 GB.")
@click.option("--full", is_flag=True, help="The paper's networks and sizes; days on a CPU.")
@click.option("--only", type=click.Choice(list(STEPS)), multiple=True, help="A step; repeatable.  [all]")
def main(data: Path, out: Path, full: bool, only: tuple[str, ...]) -> None:
    """Run the trial, or what of it is not done."""
    out.mkdir(parents=True, exist_ok=True)
    trial = Trial(FULL if full else SMALL, data, out)
    for name, step in STEPS.items():
        if not only or name in only:
            step(trial)


if __name__ == "__main__":
    main()
