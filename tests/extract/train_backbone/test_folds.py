from __future__ import annotations

import numpy as np
import pytest
from faster.errors import SourceError, UsageError
from faster.extract.train_backbone.folds import fold_of, require_fold
from faster.store import VideoRecord

NAMES = ("a", "b", "c")


def videos(groups: int = 9, *, seed: int = 0) -> list[VideoRecord]:
    """Groups of 1 to 7 videos in each of three classes, and some videos of class "c" without a group."""
    rng = np.random.default_rng(seed)
    found = []
    for label, name in enumerate(NAMES):
        for group in range(groups):
            for i in range(int(rng.integers(1, 8))):
                found.append(
                    VideoRecord(
                        id=f"{name}{group}-{i}", path=f"{i}", label=label, group=f"{name}/g{group:02}"
                    )
                )
    found += [VideoRecord(id=f"alone{i}", path=f"{i}", label=2) for i in range(6)]
    return found


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_groups_stay_together_and_classes_are_spread(folds: int) -> None:
    found = videos()
    fold = fold_of(found, NAMES, folds, seed=0)
    assert set(fold.tolist()) == set(range(folds))
    for group in {video.group for video in found} - {""}:
        assert len({int(k) for k, v in zip(fold, found, strict=True) if v.group == group}) == 1
    for label in range(3):
        counts = np.bincount(
            [k for k, v in zip(fold, found, strict=True) if v.label == label], minlength=folds
        )
        assert counts.max() - counts.min() <= 7  # a group


def test_the_seed_decides_and_the_order_of_the_videos_does_not() -> None:
    found = videos()
    fold = dict(zip([v.id for v in found], fold_of(found, NAMES, 3, seed=1).tolist(), strict=True))
    turned = found[::-1]
    again = dict(zip([v.id for v in turned], fold_of(turned, NAMES, 3, seed=1).tolist(), strict=True))
    assert fold == again
    other = fold_of(found, NAMES, 3, seed=2).tolist()
    assert list(fold.values()) != other


def test_a_group_of_several_classes_is_one_unit() -> None:
    found = [
        VideoRecord(id=f"{group}-{label}-{i}", path="x", label=label, group=str(group))
        for group in range(4)
        for label in range(2)
        for i in range(2)
    ]
    fold = fold_of(found, NAMES, 2, seed=0)
    np.testing.assert_array_equal(np.bincount(fold), [8, 8])
    for group in range(4):
        assert len({int(k) for k, v in zip(fold, found, strict=True) if v.group == str(group)}) == 1


def test_a_class_that_one_fold_would_hold_whole_is_refused() -> None:
    found = videos()
    found += [VideoRecord(id=f"d{i}", path="x", label=3, group="d/g01") for i in range(3)]
    with pytest.raises(SourceError, match=r"fold \d of 2 would hold every video of 'd'"):
        fold_of(found, (*NAMES, "d"), 2, seed=0)


def test_too_many_folds_are_refused() -> None:
    found = [VideoRecord(id=f"{i}", path="x", label=i % 2) for i in range(4)]
    with pytest.raises(SourceError, match="4 groups of training videos do not fill 5 folds"):
        fold_of(found, NAMES, 5, seed=0)


@pytest.mark.parametrize(("folds", "fold"), [(2, None), (None, 0), (1, 0), (2, 2), (2, -1)])
def test_two_numbers_that_name_no_fold_are_refused(folds: int | None, fold: int | None) -> None:
    with pytest.raises(UsageError, match="fold"):
        require_fold(folds, fold)
