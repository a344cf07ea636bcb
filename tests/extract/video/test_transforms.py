from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import Interpolation
from faster import store as stores
from faster.aggregate.data.loader import ClipReader, TrainLoader
from faster.aggregate.data.mix import MixRequest, choose_mix
from faster.errors import ProvenanceMismatch, UsageError
from faster.extract.backbones.weights.load import load_weights
from faster.extract.run import ExtractConfig, extract
from faster.extract.video.decode import LoadedVideo, stream_clips
from faster.extract.video.transforms import (
    centre_transform,
    centre_view,
    draw_view,
    normalise,
    random_view,
    scaled_size,
)
from numpy.typing import NDArray
from sets import make_bright_set
from videos import make_video


def test_the_papers_test_view() -> None:
    transform = centre_transform(224)
    assert (transform.size, transform.short_side) == (224, 256)
    view = centre_view(340, 256, transform)
    assert (view.width, view.height, view.left, view.top, view.flip) == (340, 256, 58, 16, False)


def test_other_sizes_scale_both() -> None:
    assert centre_transform(112).short_side == 128
    assert centre_transform(64).short_side == 73


@pytest.mark.parametrize("picture", [(640, 360), (360, 640), (16, 16), (1001, 333)])
def test_scaling_keeps_the_proportions_and_the_shorter_side(picture: tuple[int, int]) -> None:
    width, height = scaled_size(*picture, 128)
    assert min(width, height) == 128
    assert abs(width / height - picture[0] / picture[1]) * 128 <= 1


def test_a_transform_survives_json() -> None:
    fields = centre_transform(112).to_dict()
    assert json.loads(json.dumps(fields)) == fields
    assert fields == {"size": 112, "short_side": 128, "crop": "centre", "interpolation": "bilinear"}


def test_random_views_lie_inside_and_cover_the_papers_range() -> None:
    rng = np.random.default_rng(0)
    views = [random_view(rng, 340, 256, 224) for _ in range(2000)]
    assert {view.height for view in views} == set(range(256, 321))
    assert all(0 <= view.left <= view.width - 224 and 0 <= view.top <= view.height - 224 for view in views)
    assert any(view.left == 0 for view in views) and any(view.top == view.height - 224 for view in views)
    assert 900 < sum(view.flip for view in views) < 1100


@pytest.mark.parametrize("size", [0, -3])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        centre_transform(size)
    with pytest.raises(UsageError, match="1 or more"):
        random_view(np.random.default_rng(0), 340, 256, size)


def test_normalise_is_the_formula_channels_first() -> None:
    pixels = torch.randint(0, 256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    kept = pixels.clone()
    mean, std = (0.45, 0.4, 0.5), (0.2, 0.25, 0.3)
    found = normalise(pixels, mean, std)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, 3, 4, 5)
    wanted = (kept.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(found.double(), wanted.permute(0, 4, 1, 2, 3), rtol=1e-6, atol=1e-6)
    assert torch.equal(pixels, kept)


CLIPS, FRAMES, SIZE = 5, 8, 40
MODEL = "r2d14-w4"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("views") / "a.mp4"
    return make_video(path, frames=61, width=96, height=72, numbered=False)


def reference_clips(path: Path, view: int, *, name: str, seed: int) -> tuple[NDArray[np.uint8], list[int]]:
    """A view's clips by the obvious loop: every frame decoded and scaled whole, then cut by numpy; and their starts."""
    draw = draw_view(name, view, seed=seed, size=SIZE)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    width, height = frames[0].width, frames[0].height
    scale = draw.short_side / min(width, height)
    scaled = [
        frame.reformat(
            width=round(width * scale),
            height=round(height * scale),
            format="rgb24",
            interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT,
        ).to_ndarray()
        for frame in frames
    ]
    room_down, room_across = scaled[0].shape[0] - SIZE, scaled[0].shape[1] - SIZE
    top = room_down // 2 if draw.down is None else int(draw.down * (room_down + 1))
    left = room_across // 2 if draw.across is None else int(draw.across * (room_across + 1))
    pictures = [picture[top : top + SIZE, left : left + SIZE] for picture in scaled]
    if draw.flip:
        pictures = [picture[:, ::-1] for picture in pictures]
    starts = [min(int((i + draw.offset) * len(frames) / CLIPS), len(frames) - FRAMES) for i in range(CLIPS)]
    return np.stack([np.stack(pictures[start : start + FRAMES]) for start in starts]), starts


def streamed(path: Path, views: int, *, slot_clips: int) -> Iterator[LoadedVideo]:
    """The parts of a video, each in a slot of its own."""
    draws = tuple(draw_view("name", view, seed=3, size=SIZE) for view in range(views))
    slot = partial(np.zeros, (slot_clips, FRAMES, SIZE, SIZE, 3), np.uint8)
    parts = stream_clips(path, clips=CLIPS, clip_frames=FRAMES, size=SIZE, views=draws, out=slot())
    part = next(parts)
    yield part
    while part.more:
        part = parts.send(slot())
        yield part


@pytest.mark.parametrize("slot_clips", [1, 4, 20])
def test_each_views_clips_are_those_of_the_obvious_loop(video: Path, slot_clips: int) -> None:
    parts = list(streamed(video, 4, slot_clips=slot_clips))
    views = np.concatenate([part.views for part in parts])
    clips, starts = np.concatenate([part.clips for part in parts]), np.concatenate([p.starts for p in parts])
    assert len(parts) == -(-20 // slot_clips) and (np.diff(starts) >= 0).all()
    assert parts[-1].decode_seconds > parts[0].decode_seconds - 1e-9 > 0
    for view in range(4):
        expected, expected_starts = reference_clips(video, view, name="name", seed=3)
        assert starts[views == view].tolist() == expected_starts
        np.testing.assert_array_equal(clips[views == view], expected)


def test_what_is_drawn_follows_from_seed_video_and_view_alone_and_covers_the_papers_range() -> None:
    draws = [draw_view(f"video {i}", 1, seed=0, size=224) for i in range(1500)]
    assert draws[7] == draw_view("video 7", 1, seed=0, size=224)
    assert len({draw_view("video 7", view, seed=seed, size=224) for view in (1, 2) for seed in (0, 1)}) == 4
    assert {draw.short_side for draw in draws} == set(range(256, 321))
    assert 650 < sum(draw.flip for draw in draws) < 850
    for name in ("across", "down", "offset"):
        values = np.array([getattr(draw, name) for draw in draws])
        assert values.min() < 0.01 and 0.99 < values.max() < 1 and abs(values.mean() - 0.5) < 0.03
    centre = draw_view("video 7", 0, seed=0, size=224).view_of(340, 256, 224)
    assert (centre.left, centre.top, centre.flip) == (58, 16, False)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExtractConfig, Path]:
    root = tmp_path_factory.mktemp("stored")
    make_bright_set(root / "videos", per_class=4, tests=1)
    (root / "videos/train/dark/broken.mp4").write_bytes(b"not a video at all")
    config = ExtractConfig(
        source=str(root / "videos"),
        models=(MODEL,),
        store=str(root / "s.zarr"),
        allow_random=True,
        clips=3,
        size=32,
        views=2,
        view_seed=5,
        precision="float32",
    )
    summary = extract(config, progress=False)
    assert summary.clips == 8 * 3 * 3 and summary.whole == 8
    return config, root / "videos"


def test_a_views_maps_are_those_of_its_clips_and_training_draws_among_the_views(
    stored: tuple[ExtractConfig, Path],
) -> None:
    config, root = stored
    store = stores.open(str(config.store))
    features = store.features(MODEL, 8)
    assert features.views == 3 and features.coverage.failed.sum() == 3
    assert features.spec.transform["view_seed"] == 5
    assert features.spec.transform["view_short_sides"] == [round(32 * 256 / 224), round(32 * 320 / 224)]
    backbone, _ = load_weights(MODEL, allow_random=True)
    row = store.videos.row_of["train/light/light 3.mp4"]
    for view in range(3):
        draw = draw_view("train/light/light 3.mp4", view, seed=5, size=32)
        (loaded,) = stream_clips(
            root / store.videos.paths[row], clips=3, clip_frames=8, size=32, views=(draw,), out=None
        )
        pixels = normalise(torch.from_numpy(loaded.clips), backbone.mean, backbone.std)
        with torch.no_grad():
            plain = backbone.features(pixels)
        maps = features.read_maps(row, view, np.arange(3))
        np.testing.assert_allclose(maps, plain.numpy(), rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(features.coverage.columns["starts"][row, view], loaded.starts)
    mix = choose_mix(store, MixRequest(clips=2))
    rows = np.flatnonzero(features.ok.all(axis=1))
    loader = TrainLoader(
        ClipReader(mix, store.videos.labels, reads="maps", depth=0), rows, batch_size=8, seed=0
    )
    drawn = np.concatenate([loader.plan(epoch, 0)[1] for epoch in range(12)])
    assert set(drawn.tolist()) == {0, 1, 2}


def test_a_rerun_that_lacks_one_view_ends_with_the_same_bytes(stored: tuple[ExtractConfig, Path]) -> None:
    config, _ = stored
    path = Path(str(config.store))
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    for name in ("receipts/000000.v1.json", "maps/c/0/1/0/0/0/0/0"):
        (path / f"features/{MODEL}/L8" / name).unlink()
    summary = extract(config, progress=False)
    assert summary.clips == 8 * 3
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_store_keeps_to_the_views_that_it_was_begun_with(stored: tuple[ExtractConfig, Path]) -> None:
    config, root = stored
    other = ExtractConfig(
        source=str(root), models=(MODEL,), store=config.store, allow_random=True, clips=3, size=32
    )
    with pytest.raises(ProvenanceMismatch, match="views: store has 3, asked 1"):
        extract(other, progress=False)
