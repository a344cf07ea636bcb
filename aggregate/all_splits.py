"""Training and evaluation on every named split of a store, and their mean, as in Table 8."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import store as stores
from ..errors import RunError
from ..runtime.canonical_json import read_as
from ..terminal.log_output import quiet
from ..terminal.suggest import did_you_mean
from ..training.distributed import init_distributed
from ..training.run_folder import read_json, write_json
from .config import TrainConfig
from .data.mix import choose_mix, choose_split
from .data.partition import choose_subsets
from .evaluation.evaluate import Evaluation, evaluate
from .init import require_unseen_by
from .models.registry import require_known
from .runs import load_config, load_run
from .same_store import open_store
from .train import run_folder, train_opened

ALL = "all"
SPLITS_FILE = "splits.json"


@dataclass(frozen=True, kw_only=True)
class SplitsResult:
    """The report of each split's own run, in `folder`/<split>."""

    folder: Path
    reports: dict[str, Evaluation]

    @property
    def mean(self) -> dict[str, float]:
        """The mean over the splits of each metric that is a share, and of the GFLOPs per video."""
        return {name: float(np.mean(values)) for name, values in self._figures().items()}

    @property
    def standard_error(self) -> dict[str, float | None]:
        """Standard deviation over the splits (n − 1) divided by √n; None for one split."""
        return {
            name: float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
            for name, values in self._figures().items()
        }

    def _figures(self) -> dict[str, list[float]]:
        rows = [
            {**asdict(report.metrics), "gflops_per_video": report.gflops_per_video}
            for report in self.reports.values()
        ]
        return {name: [row[name] for row in rows] for name in rows[0] if name != "videos"}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "folder": str(self.folder),
            "mean": self.mean,
            "standard_error": self.standard_error,
            "splits": {split: report.to_dict() for split, report in self.reports.items()},
        }


def train_splits(config: TrainConfig, *, progress: bool = True) -> SplitsResult:
    """Run `train_agg` on each named split of the store, each in its own folder below the run folder.

    By default the run folder is `train_agg`'s with -all at its end. In a second run, finished splits are only
    reported. The folder then holds result.json with the mean and every split.

    Raises as `train_agg` does. Errors in the data of any split are raised before the first training.
    """
    require_known(config.aggregator)
    store = stores.open(config.store)
    choose_split(store, None)  # DataError if there is none
    mix = choose_mix(store, config)
    folder = run_folder(config, mix)
    if config.out is None:
        folder = folder.with_name(f"{folder.name}-{ALL}")
    if (folder / "config.json").exists():
        raise RunError(f"{folder} holds a run of one split; name another folder with --out")
    origin = None if config.init is None else load_run(config.init)
    # An error in the last split must not wait for the first one's training.
    for split in store.videos.split_names:
        with quiet():  # its training will log this
            subsets = choose_subsets(store, mix, split, config)
        if origin is not None:
            require_unseen_by(origin, store, subsets, split)
    reports = {}
    with init_distributed(config.device) as (ranks, _):
        for split in store.videos.split_names:
            one = replace(config, split=split, out=folder / split)
            reports[split] = train_opened(store, one, progress=progress).report
        result = SplitsResult(folder=folder, reports=reports)
        if ranks.is_main:
            write_json(folder / SPLITS_FILE, list(reports))
            write_json(folder / "result.json", result.to_dict())
    return result


def is_splits_folder(path: str | Path) -> bool:
    """Whether `train_splits` has finished this folder."""
    return (Path(path) / SPLITS_FILE).exists()


def evaluate_splits(path: str | Path, **asked: Any) -> SplitsResult:
    """Evaluate each split's own run in a folder of `train_splits`.

    Takes the keyword arguments of `evaluate`, except `split`.
    Raises RunError if it is no such folder, and as `evaluate` does.
    """
    folder = Path(path)
    # Errors come before the first evaluation, and name the folder that was asked for.
    for split in _splits_of(folder):
        open_store(
            load_config(folder / split), asked.get("store"), command=["faster", "evaluate", str(folder)]
        )
    return SplitsResult(
        folder=folder,
        reports={
            split: evaluate(load_run(folder / split), split=split, **asked) for split in _splits_of(folder)
        },
    )


def run_of_split(path: str | Path, split: str) -> Path:
    """Return the run folder of one split in a folder of `train_splits`. Raises RunError if it has none."""
    folder = Path(path)
    splits = _splits_of(folder)
    if split not in splits:
        raise RunError(
            f"{folder} has no run of split {split!r}; it has {', '.join(splits)}{did_you_mean(split, splits)}"
        )
    return folder / split


def _splits_of(folder: Path) -> list[str]:
    if not is_splits_folder(folder):
        raise RunError(
            f"{folder} was not trained on every split: its training videos are in other splits' test parts; "
            "train with faster train-agg --split all"
        )
    try:
        splits = read_as(list[str], read_json(folder / SPLITS_FILE))
        if not splits:
            raise ValueError("no split")
        return splits
    except ValueError as error:
        raise RunError(f"{folder / SPLITS_FILE} is damaged: {error}; train again with --split all") from error
