"""Folds: the training list in K subsets of complete groups; each video is unseen by one of K networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...errors import SourceError, UsageError
from ...store import VideoRecord
from ...terminal.text import agreeing, counted


def require_fold(folds: int | None, fold: int | None) -> None:
    """Raise UsageError if the two do not name one of K folds."""
    if (folds is None) != (fold is None):
        raise UsageError("--folds K and --fold k go together: k, from 0 to K − 1, is the fold to leave out")
    if folds is not None and fold is not None and not (folds >= 2 and 0 <= fold < folds):
        raise UsageError(f"fold {fold} of {folds}: there must be 2 folds or more, and they count from 0")


def fold_of(
    videos: Sequence[VideoRecord], class_names: Sequence[str], folds: int, *, seed: int
) -> NDArray[np.int64]:
    """Return (n,) the fold, in [0, folds), of each labelled video.

    It depends only on the videos and the seed, not on the videos' order. Videos of one group stay together; a
    video without a group is its own group. Each class is spread over the folds as evenly as its groups allow.

    Raises:
        SourceError: leaving out some fold would leave out a complete class, or a fold would have no video.
    """
    members: dict[str, list[int]] = {}
    for i, video in enumerate(videos):
        members.setdefault(video.group or f"\0{video.id}", []).append(i)
    names = sorted(members)
    order = np.random.default_rng([seed, 0xF01D]).permutation(len(names))
    # Large groups first: the small ones then even out the difference.
    units = sorted((members[names[i]] for i in order), key=len, reverse=True)
    labels = np.array([video.label for video in videos], dtype=np.int64)
    classes = int(labels.max()) + 1
    totals = np.bincount(labels, minlength=classes)
    counts = np.zeros((folds, classes), dtype=np.int64)
    fold = np.empty(len(videos), dtype=np.int64)
    for unit in units:
        size = np.bincount(labels[unit], minlength=classes)
        of_its_classes = (counts * size / np.maximum(totals, 1)).sum(1)
        chosen = int(np.lexsort((counts.sum(1), of_its_classes))[0])
        fold[unit] = chosen
        counts[chosen] += size
    for k in range(folds):
        if not counts[k].any():
            raise SourceError(
                f"{counted(len(units), 'group')} of training videos {agreeing(len(units), 'does', 'do')} "
                f"not fill {folds} folds; ask for fewer with --folds"
            )
        if (gone := np.flatnonzero((totals > 0) & (counts[k] == totals))).size:
            raise SourceError(
                f"fold {k} of {folds} would hold every video of {class_names[gone[0]]!r}, which has too few "
                "groups to be parted; "
                "leave the class out, or train without --folds"
            )
    return fold
