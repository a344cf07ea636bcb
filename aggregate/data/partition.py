"""Which videos of a split a run uses for training, for choosing its best epoch, and for its report."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ...store import Store
from ...terminal.text import agreeing, counted
from ...training.holdout import group_split
from ..config import TrainConfig
from .mix import Mix, no_videos, require_unseen, subset_rows, training_is_known

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Subsets:
    """Rows of the store, int64, for training, validation and report; the report is on "test" or "val"."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    report: NDArray[np.int64]
    report_part: str

    @property
    def rows(self) -> dict[str, NDArray[np.int64]]:
        """The rows by their use."""
        return {"train": self.train, "validation": self.validation, "report": self.report}


def choose_subsets(
    store: Store,
    mix: Mix,
    split: str,
    config: TrainConfig,
) -> Subsets:
    """Split the videos into subsets, log the coverage, and refuse data that gives no sound results.

    With `config.unseen`, training and validation leave out videos that a backbone in use was trained on.
    Raises DataError if a part is empty; if a backbone's training videos are unknown; if the training videos
    are of one class, or too few to hold some out; if a reported video was in a backbone's training.
    """
    rows = {}
    for part in ("train", "val", "test"):
        rows[part], coverage = subset_rows(store, mix, split, part)
        if coverage.listed:
            logger.info(f"{part}: {coverage}")
    if not len(rows["train"]):
        raise DataError(no_videos(store, mix, split, "train"))
    if config.unseen:
        rows["train"] = _unseen(store, mix, rows["train"], split)
    report_part = "test" if len(rows["test"]) else "val"
    if not len(rows[report_part]):
        listed = [part for part in ("test", "val") if subset_rows(store, mix, split, part)[1].listed]
        reason = no_videos(store, mix, split, (listed or ["test"])[0])
        raise DataError(f"nothing could be reported: {reason}")
    labels = store.videos.labels
    classes = np.unique(labels[rows["train"]])
    if len(classes) == 1:
        raise DataError(
            f"{store.path}: all {counted(len(rows['train']), 'train video')} of {split} are of one class, "
            f"{store.class_names[classes[0]]}; add videos of another: faster extract SOURCE --store "
            f"{store.path}"
        )
    require_unseen(store, mix, rows[report_part], split, report_part)
    train, validation = group_split(
        rows["train"], labels, store.videos.groups, share=config.validation_share, seed=config.seed
    )
    if not len(validation):
        fix = f"add videos: faster extract SOURCE --store {store.path}"
        if config.unseen:
            fix = (
                "leave out --unseen, or extract with weights that were trained on fewer: "
                "faster train-backbone … --folds 2 --fold 0"
            )
        raise DataError(
            f"{store.path}: each class has one {'unseen ' * config.unseen}train video or group in {split}, "
            f"which leaves none to choose the best epoch by; {fix}"
        )
    by = "group" if any(store.videos.groups[row] for row in rows["train"]) else "video"
    logger.info(
        f"validation: {len(validation):,} of the {counted(len(rows['train']), 'train video')}, parted by {by}"
    )
    for model, features in mix.features.items():
        if not training_is_known(features):
            logger.info(f"{model}: which videos were in its own training is unknown")
            continue
        shares = [
            len(features.seen_in_training([store.videos.ids[row] for row in rows_])) / len(rows_)
            for rows_ in (train, validation)
        ]
        logger.info(
            f"{model}: {shares[0]:.0%} of the {len(train)} training and {shares[1]:.0%} of the "
            f"{len(validation)} validation videos were in its own training"
        )
    return Subsets(train=train, validation=validation, report=rows[report_part], report_part=report_part)


def _unseen(store: Store, mix: Mix, rows: NDArray[np.int64], split: str) -> NDArray[np.int64]:
    """Return the rows that no backbone in use was trained on. Raises DataError if none or unknown."""
    ids, seen = [store.videos.ids[row] for row in rows], set[str]()
    for model, features in mix.features.items():
        if not training_is_known(features):
            raise DataError(
                f"{store.path}: which videos {model} was trained on is unknown, "
                "so nobody can tell the unseen ones; leave out --unseen"
            )
        seen.update(features.seen_in_training(ids))
    kept = rows[[name not in seen for name in ids]]
    logger.info(
        f"unseen: {len(kept):,} of the {counted(len(rows), 'train video')} "
        f"{agreeing(len(kept), 'was', 'were')} in no backbone's training"
    )
    if not len(kept):
        raise DataError(
            f"{store.path}: the backbones were trained on all {counted(len(rows), 'train video')} of "
            f"{split}; train them on a part: "
            "faster train-backbone … --folds 2 --fold 0, and extract with these weights"
        )
    return kept
