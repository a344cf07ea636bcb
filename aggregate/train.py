"""Train an aggregator on a store's maps (FASTER §4, "Setups for learning to aggregate")."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import store as stores
from ..errors import RunError
from ..runtime.file_names import file_stem
from ..store import Store
from ..terminal.log_output import quiet
from ..training.checkpoint import BestEpoch
from ..training.distributed import Ranks, init_distributed
from ..training.log import has_tensorboard
from ..training.loop import fit
from ..training.run_folder import run_began
from .config import TrainConfig as TrainConfig
from .data.loader import ClipReader
from .data.mix import Mix, choose_mix, choose_split
from .data.partition import choose_subsets
from .data.pattern import ANY
from .evaluation.evaluate import Evaluation
from .init import identity, require_unseen_by, start_from
from .models.registry import require_known
from .run_setup import PreparedRun
from .runs import load_config, load_run, store_changes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A finished run: its folder, its best epoch (None if there was nothing to train), and its report."""

    run: Path
    best: BestEpoch | None
    report: Evaluation


def train_agg(config: TrainConfig, *, progress: bool = True) -> TrainResult:
    """Train an aggregator on a named split's train part and report once on its test part.

    The best epoch is chosen on a validation share of the train part, split by group if the videos have
    groups. The report is on the split's test part if that has labelled videos with maps, else on its val
    part. Progress is logged. In a second run, an interrupted run continues, and a finished one is only
    reported. Under torchrun, the processes share each batch; the first one logs and writes.

    Raises DataError if the store does not have what is asked, or a reported video was in a backbone's
    training; UsageError, RunError, StorageError and Interrupted as `training.loop.fit` does.
    """
    require_known(config.aggregator)
    return train_opened(stores.open(config.store), config, progress=progress)


def train_opened(store: Store, config: TrainConfig, *, progress: bool) -> TrainResult:
    """Run `train_agg` on an open store."""
    with init_distributed(config.device) as (ranks, device), quiet(not ranks.is_main):
        return _train(store, config, progress, ranks, device)


def _train(
    store: Store, config: TrainConfig, progress: bool, ranks: Ranks, device: torch.device
) -> TrainResult:
    mix = choose_mix(store, config)
    split = choose_split(store, config.split)
    run = run_folder(config, mix)
    _require_same_store(run, store, mix)
    names = store.videos.split_names
    first = not config.split and len(names) > 1
    logger.info(f"split: {split}" + (f" (of {', '.join(names)}; the first by name)" if first else ""))
    subsets = choose_subsets(store, mix, split, config)
    prepared = PreparedRun(config, store, mix, split, subsets, run=run, ranks=ranks, device=device)
    if config.init is not None:
        origin = load_run(config.init)
        logger.info(start_from(origin, prepared.aggregator, prepared.settled))
        require_unseen_by(origin, store, subsets, split)
        prepared.init, prepared.seen_before = identity(origin, begun=run), origin.trained_on
    logger.info(f"run folder: {run}")
    if (before := prepared.settled.store) != str(store.path.resolve()):
        logger.info(f"the run was begun on {before}; {store.path} is the same store by its fingerprint")
    best = None
    if prepared.trains:
        if not has_tensorboard():
            logger.info(
                "tensorboard is not installed, so no events are written: "
                "pip install 'faster-video[tensorboard]'"
            )
        finished = (run / "result.json").exists() and (run / "last.safetensors").exists()
        reads = prepared.aggregator.reads
        task = prepared.task(ClipReader(mix, store.videos.labels, reads=reads, pin=device.type == "cuda"))
        best = fit(
            task,
            prepared.options,
            run,
            config=prepared.values,
            progress=progress,
            ranks=ranks,
            varies=mix.drawn,
        )
        if finished:
            logger.info(f"{run} was finished: only its report is made again")
        logger.info(
            f"best epoch: {best.epoch} of {config.epochs}, validation top-1 {best.metrics['top1']:.1%}"
        )
        ranks.wait()  # until the main process has written it
    else:
        prepared.record_untrained()
    return TrainResult(run=run, best=best, report=prepared.report())


def run_folder(config: TrainConfig, mix: Mix) -> Path:
    """Return the run's folder, as asked or by default."""
    if config.out is not None:
        return Path(config.out)
    pattern = ANY if mix.drawn else mix.pattern.in_names
    stem = Path(config.store).resolve().stem
    return Path("runs") / f"{stem}-{file_stem(config.aggregator)}-{pattern}-n{mix.clips}-s{config.seed}"


def _require_same_store(run: Path, store: Store, mix: Mix) -> None:
    """Refuse to continue a run whose store has changed, and say what changed. Raises RunError."""
    if not run_began(run):
        return
    begun = load_config(run)
    if begun.store == str(store.path.resolve()) and (changes := store_changes(begun, store, mix)):
        raise RunError(
            f"{store.path} has changed since {run} was begun: {', '.join(changes)}; "
            "train on it as it is now: faster train-agg with another folder as --out"
        )
