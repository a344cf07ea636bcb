from __future__ import annotations

import numpy as np
import pytest
from faster.errors import UsageError
from faster.extract.video.sampling import plan_clips, random_clip, random_start


def test_256_frames_in_32_clips_of_8_lie_end_to_end() -> None:
    plan = plan_clips(256, clips=32, clip_frames=8)
    assert plan.indices.reshape(-1).tolist() == list(range(256))
    assert plan.starts.tolist() == list(range(0, 256, 8))
    assert not plan.padded.any()


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 30, 100, 255, 300, 1001])
@pytest.mark.parametrize("clips", [1, 3, 8, 32])
@pytest.mark.parametrize(("clip_frames", "frame_stride"), [(8, 1), (16, 2), (1, 1), (5, 7)])
def test_the_grid_is_the_formula(frames: int, clips: int, clip_frames: int, frame_stride: int) -> None:
    plan = plan_clips(frames, clips=clips, clip_frames=clip_frames, frame_stride=frame_stride)
    span = (clip_frames - 1) * frame_stride + 1
    for i in range(clips):
        start = max(min(i * frames // clips, frames - span), 0)
        asked = [start + k * frame_stride for k in range(clip_frames)]
        assert plan.starts[i] == start
        assert plan.indices[i].tolist() == [min(index, frames - 1) for index in asked]
        assert plan.padded[i] == sum(index > frames - 1 for index in asked)


def test_a_video_shorter_than_a_clip_repeats_its_last_frame() -> None:
    plan = plan_clips(5, clips=2, clip_frames=8)
    assert plan.indices.tolist() == [[0, 1, 2, 3, 4, 4, 4, 4]] * 2
    assert plan.padded.tolist() == [3, 3]


def test_random_starts_take_every_place_where_the_clip_fits_and_no_other() -> None:
    rng = np.random.default_rng(0)
    starts = {random_start(rng, 12, clip_frames=4, frame_stride=2) for _ in range(300)}
    assert starts == set(range(12 - 7 + 1))
    assert {random_start(rng, 5, clip_frames=8) for _ in range(20)} == {0}


def test_a_random_clip_is_consecutive_and_pads_as_the_grid_does() -> None:
    clip = random_clip(np.random.default_rng(3), 100, clip_frames=8, frame_stride=3)
    assert clip.indices.shape == (1, 8)
    assert (np.diff(clip.indices[0]) == 3).all()
    assert random_clip(np.random.default_rng(3), 2, clip_frames=4).indices.tolist() == [[0, 1, 1, 1]]


@pytest.mark.parametrize(
    "counts",
    [
        {"clips": 0, "clip_frames": 8},
        {"clips": 1, "clip_frames": 0},
        {"clips": 1, "clip_frames": 8, "frame_stride": 0},
    ],
)
def test_counts_below_one_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be 1 or more"):
        plan_clips(10, **counts)  # type: ignore[arg-type]
