"""The validation split: the training videos that select the best epoch, in both training stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def group_split(
    rows: NDArray[np.int64], labels: NDArray[np.int32], groups: Sequence[str], *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split training rows into (training, validation), about `share` of each class, the same for one seed.

    `labels` and `groups` have an entry for every row of the store, `rows` selects some of them; "" is no
    group. Videos of one group stay together, so that near-copies are never on both sides. Every class keeps a
    training video; a class of two groups or more gives at least one to validation.
    """
    rng = np.random.default_rng([seed, 0x7A11])
    units: dict[str, list[int]] = {}
    for row in rows.tolist():
        units.setdefault(groups[row] or f"\0{row}", []).append(row)
    names = [sorted(units)[i] for i in rng.permutation(len(units))]
    counts = {name: np.bincount(labels[units[name]]) for name in names}
    classes = int(labels[rows].max()) + 1
    sizes = {name: np.pad(count, (0, classes - len(count))) for name, count in counts.items()}
    left = sum(sizes.values(), np.zeros(classes, dtype=np.int64))
    total, taken = left.copy(), np.zeros(classes, dtype=np.int64)
    held: set[int] = set()
    for label in np.flatnonzero(total).tolist():
        target = share * total[label]
        for name in names:
            size = sizes[name]
            if not size[label] or units[name][0] in held:
                continue
            wanted = taken[label] == 0 or taken[label] + size[label] / 2 <= target
            if wanted and ((left - size > 0) | (size == 0)).all():
                held.update(units[name])
                left, taken = left - size, taken + size
    chosen = np.isin(rows, sorted(held))
    return rows[~chosen], rows[chosen]
