"""Clips of several videos in one pass: the same bits as alone, and a bad video costs itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from faster.errors import VideoError
from faster.extract.backbones.adapters import ModuleBackbone
from faster.extract.backbones.inference.frozen import FrozenBackbone
from faster.extract.pipeline.batching import HostMapsAndLogits, VideoBatches
from networks import randomised
from torch import Tensor, nn

Results = dict[int, HostMapsAndLogits | VideoError]


class FirstPixel(nn.Module):
    """Maps that are a clip's first pixel, scaled so that white overflows float16."""

    channels, mean, std = 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def features(self, x: Tensor) -> Tensor:
        return (x[:, :, :1, :1, :1] * 7e4).permute(0, 2, 3, 4, 1)


def videos_of(counts: list[int], *, size: int = 32) -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.integers(0, 200, (n, 8, size, size, 3), dtype=np.uint8)) for n in counts]


def passes_of(network: FrozenBackbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Clips of each of the network's passes, before padding."""
    seen: list[int] = []
    run = network._run

    def counted(frames: Tensor, *values: int) -> object:
        seen.append(len(frames))
        return run(frames, *values)

    monkeypatch.setattr(network, "_run", counted)
    return seen


@pytest.mark.parametrize("name", ["r2d14-w4", "r2plus1d14-w4"])
@pytest.mark.parametrize("parts", [1, 3])
def test_clips_beside_other_videos_have_the_bits_that_they_have_alone(
    name: str, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = FrozenBackbone(randomised(name, 5), batch_clips=4)
    counts = [3, 1, 1, 9, 4, 2, 6, 1]
    videos = videos_of(counts)
    alone = [network(clips) for clips in videos]
    each = network.pass_clips(8, 32)
    passes = passes_of(network, monkeypatch)
    results: Results = {}
    batches = VideoBatches(network, results.__setitem__)
    for row, clips in enumerate(videos):
        for part in clips.clone().chunk(parts):
            batches.add(row, part)
            part.zero_()  # the memory is used again
        batches.end(row)
    batches.flush()
    assert list(results) == list(range(len(videos)))
    for row, (maps, logits) in enumerate(alone):
        found = results[row]
        assert not isinstance(found, VideoError) and logits is not None and found[1] is not None
        assert found[0].tobytes() == maps.tobytes() and found[1].tobytes() == logits.tobytes()
    assert len(passes) == -(-sum(counts) // each) and set(passes[:-1]) <= {each}


def test_a_clip_that_overflows_fails_its_video_only_and_is_named() -> None:
    network = FrozenBackbone(ModuleBackbone(FirstPixel()), batch_clips=4)
    videos = videos_of([3, 5, 3, 3], size=8)
    videos[1][4] = 255  # in a pass with the next video's clips
    results: Results = {}
    batches = VideoBatches(network, results.__setitem__)
    for row, clips in enumerate(videos):
        batches.add(row, clips)
        batches.end(row)
    batches.flush()
    failed = results.pop(1)
    assert isinstance(failed, VideoError) and "clip 4 overflows float16" in str(failed)
    for row, found in results.items():
        assert not isinstance(found, VideoError)
        np.testing.assert_array_equal(found[0], network(videos[row])[0])


def test_a_video_that_fails_after_some_of_its_clips_leaves_its_neighbours_alone() -> None:
    network = FrozenBackbone(randomised("r2d14-w4"), batch_clips=4)
    videos = videos_of([2, 7, 2])
    results: Results = {}
    batches = VideoBatches(network, results.__setitem__)
    for row, clips in enumerate(videos):
        batches.add(row, clips)
        if row == 1:
            assert not results.keys() - {0}
            batches.fail(1, VideoError("its end is damaged"))
        else:
            batches.end(row)
    batches.flush()
    assert str(results[1]) == "its end is damaged"
    for row in (0, 2):
        found = results[row]
        assert not isinstance(found, VideoError) and found[0].tobytes() == network(videos[row])[0].tobytes()
