"""Which of a store's clips are taken: uniform subsets are those of fewer clips, random ones are in order."""

from __future__ import annotations

import numpy as np
import pytest
from faster.aggregate.data.clip_grid import random_subset, uniform_subset
from faster.errors import UsageError
from faster.extract.video.sampling import plan_clips


@pytest.mark.parametrize("frames", [3, 64, 250, 300])
@pytest.mark.parametrize("clips", [1, 2, 4, 8, 16, 32])
def test_a_subset_that_divides_the_grid_is_exactly_the_grid_of_fewer_clips(frames: int, clips: int) -> None:
    chosen, exact = uniform_subset(32, clips)
    grid = plan_clips(frames, clips=32, clip_frames=8)
    alone = plan_clips(frames, clips=clips, clip_frames=8)
    assert exact
    np.testing.assert_array_equal(grid.indices[chosen], alone.indices)


@pytest.mark.parametrize(("grid", "clips"), [(32, 5), (32, 31), (10, 3), (7, 6)])
def test_other_subsets_take_the_nearest_clips_and_say_so(grid: int, clips: int) -> None:
    chosen, exact = uniform_subset(grid, clips)
    assert not exact
    assert len(set(chosen.tolist())) == clips
    for j, index in enumerate(chosen.tolist()):
        wish = j * grid / clips
        assert abs(index - wish) == min(abs(other - wish) for other in range(grid))


def test_random_clips_are_distinct_in_order_and_cover_the_grid() -> None:
    rng = np.random.default_rng(0)
    seen = np.zeros(10, dtype=int)
    for _ in range(200):
        chosen = random_subset(rng, 10, 4)
        assert (np.diff(chosen) > 0).all()
        seen[chosen] += 1
    assert seen.min() > 0
    assert random_subset(rng, 4, 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("clips", [0, 33])
def test_more_clips_than_the_grid_has_are_refused(clips: int) -> None:
    with pytest.raises(UsageError, match="allowed: 1 to 32"):
        uniform_subset(32, clips)
    with pytest.raises(UsageError, match="allowed: 1 to 32"):
        random_subset(np.random.default_rng(0), 32, clips)
