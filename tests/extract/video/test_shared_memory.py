"""Slots are bounded in bytes, whatever the videos are."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
from faster.errors import UsageError
from faster.extract.video.shared_memory import MEMORY_BYTES, Slots, fit_slots


def test_slots_fit_the_memory_whatever_is_asked() -> None:
    for clips, workers, clip_frames, size, batch_clips in product(
        (1, 7, 32, 3000), (1, 2, 16, 200), (1, 8, 64), (16, 224, 1024), (1, 8)
    ):
        clip_shape = (clip_frames, size, size, 3)
        shape, slots = fit_slots(clip_shape, clips=clips, workers=workers, batch_clips=batch_clips)
        assert shape[1:] == clip_shape
        assert 1 <= shape[0] <= clips
        assert slots * prod(shape) <= MEMORY_BYTES
        if slots < workers + 2:  # then single clips
            assert shape[0] == 1
        if shape[0] < clips:
            assert (workers + 2) * prod(clip_shape) * (
                shape[0] + batch_clips
            ) > MEMORY_BYTES  # no more would fit
            assert shape[0] < batch_clips or shape[0] % batch_clips == 0


def test_the_usual_video_is_one_part() -> None:
    assert fit_slots((8, 224, 224, 3), clips=32, workers=1) == ((32, 8, 224, 224, 3), 3)
    assert fit_slots((8, 224, 224, 3), clips=3000, workers=2, batch_clips=8) == ((104, 8, 224, 224, 3), 4)


def test_a_clip_larger_than_the_memory_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"a clip of 64 frames of 2048×2048 pixels takes 768 MiB, .* has 512 MiB"
    ):
        fit_slots((64, 2048, 2048, 3), clips=1, workers=1)


def test_slots_do_not_overlap() -> None:
    slots = Slots.create((1, 1, 3, 5, 3), 3)
    for number in range(3):
        slots.view(number)[:] = number + 1
    assert [set(slots.view(number).ravel().tolist()) for number in range(3)] == [{1}, {2}, {3}]
    slots.close()
    with pytest.raises(UsageError, match="closed"):
        slots.view(0)
