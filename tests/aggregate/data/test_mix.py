"""Which models, clips and videos a run takes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from faster import store as stores
from faster.aggregate.data.mix import MixRequest, choose_mix, choose_split, require_unseen, subset_rows
from faster.errors import DataError, UsageError
from faster.store import VideoRecord
from faster.training.holdout import group_split
from stores import make_spec, make_store, make_videos

GFLOPS = {"dear": 30.0, "middle": 9.0, "cheap": 3.0}


def store_of(path: Path, *models: str, **changes: object):
    specs = [make_spec(model, **changes) for model in models]
    return make_store(path / "s.zarr", specs, make_videos(12), gflops=GFLOPS)


def names(mix) -> tuple[str | None, str | None]:
    return (mix.expensive and mix.expensive.model, mix.cheap and mix.cheap.model)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory):
    return store_of(tmp_path_factory.mktemp("two"), "cheap", "dear")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory):
    return store_of(tmp_path_factory.mktemp("three"), "cheap", "dear", "middle")


def test_of_two_models_the_one_with_more_gflops_is_expensive(two) -> None:
    mix = choose_mix(two, MixRequest())
    assert names(mix) == ("dear", "cheap")
    assert (str(mix.pattern), mix.clips, mix.grid, mix.clip_frames) == ("1:7", 4, 4, 8)
    assert mix.model_of.tolist() == [0, 1, 1, 1] and mix.backbone_gflops == 30 + 3 * 3
    assert mix.describe() == "1:7 of 4 clips of 8 frames (1 dear, 3 cheap)"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"pattern": "all-E"}, ("dear", None)),
        ({"pattern": "all-C"}, (None, "cheap")),
        ({"pattern": "1:7", "clips": 1}, ("dear", None)),
        ({"pattern": "1:1", "expensive": "cheap"}, ("cheap", "dear")),
        ({"pattern": "1:1", "cheap": "dear"}, ("cheap", "dear")),
        ({"pattern": "all-E", "expensive": "cheap"}, ("cheap", None)),
    ],
)
def test_two_models_in_other_patterns(two, asked: dict, expected: tuple) -> None:
    mix = choose_mix(two, MixRequest(**asked))
    assert names(mix) == expected
    if None in expected:
        assert mix.model_of.tolist() == [0] * mix.clips


def test_one_model_alone_is_all_expensive(tmp_path: Path) -> None:
    store = store_of(tmp_path, "cheap")
    mix = choose_mix(store, MixRequest())
    assert names(mix) == ("cheap", None) and str(mix.pattern) == "all-E"
    with pytest.raises(DataError, match=r"one model, cheap .* pattern 1:3 needs two; .*--pattern all-E"):
        choose_mix(store, MixRequest(pattern="1:3"))


@pytest.mark.parametrize("asked", [{}, {"expensive": "dear"}, {"pattern": "all-E"}, {"pattern": "all-C"}])
def test_more_than_two_models_must_be_named(three, asked: dict) -> None:
    with pytest.raises(UsageError, match=r"3 models, .*cheap \(3 GFLOPs a clip\); name one with --"):
        choose_mix(three, MixRequest(**asked))


def test_more_than_two_models_named(three) -> None:
    assert names(choose_mix(three, MixRequest(expensive="dear", cheap="middle"))) == ("dear", "middle")
    assert names(choose_mix(three, MixRequest(pattern="all-C", cheap="middle"))) == (None, "middle")


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"expensive": "other"}, DataError, "no maps of other"),
        ({"expensive": "dear", "cheap": "dear"}, UsageError, "both dear"),
        ({"clips": 5}, DataError, r"4 clips a video, 5 are asked; use --clips 4 or fewer"),
        ({"clip_frames": 16}, DataError, r"clips of 8 frames, none of 16; make them: faster extract"),
        ({"pattern": "x"}, UsageError, "pattern 'x'"),
    ],
)
def test_what_the_store_lacks(two, asked: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        choose_mix(two, MixRequest(**asked))


def test_clip_lengths_and_grids_must_agree(tmp_path: Path) -> None:
    specs = [make_spec("dear"), make_spec("dear", clip_frames=16), make_spec("cheap", clips=2)]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(12), gflops=GFLOPS)
    with pytest.raises(UsageError, match=r"clips of 8, 16 frames; name one with --clip-frames"):
        choose_mix(store, MixRequest())
    assert choose_mix(store, MixRequest(clip_frames=16)).clip_frames == 16
    with pytest.raises(DataError, match=r"differ in clips a video \(dear 4, cheap 2\)"):
        choose_mix(store, MixRequest(clip_frames=8))


def test_coverage_counts_every_listed_video_once(tmp_path: Path) -> None:
    videos = make_videos(12, splits={i: "test" if i < 8 else "train" for i in range(12)})
    videos[2] = VideoRecord(id=videos[2].id, path=videos[2].path, splits={"split1": "test"})  # unlabelled
    missing = [
        VideoRecord(id=f"gone{i}", path=f"gone{i}", label=0, splits={"split1": "test"}) for i in (1, 2)
    ]
    store = make_store(
        tmp_path / "s.zarr",
        [make_spec("dear"), make_spec("cheap")],
        videos,
        failed={3: "broken"},
        missing=missing,
        finalise=False,
    )
    (tmp_path / "s.zarr/features/cheap/L8/receipts/000001.v0.json").unlink()  # rows 4 to 7 are still to do
    store = stores.open(tmp_path / "s.zarr")
    rows, coverage = subset_rows(store, choose_mix(store, MixRequest()), "split1", "test")
    assert rows.tolist() == [0, 1]
    assert str(coverage) == "10 listed, 3 whole, 1 failed, 4 waiting, 2 missing, 1 unlabelled"
    rows, coverage = subset_rows(
        store, choose_mix(store, MixRequest(pattern="all-E", expensive="dear")), "split1", "test"
    )
    assert rows.tolist() == [0, 1, 4, 5, 6, 7]
    with pytest.raises(UsageError, match="no part is called 'tset'; allowed: train, val, test"):
        subset_rows(store, choose_mix(store, MixRequest()), "split1", "tset")


def test_splits_are_named(two, tmp_path: Path) -> None:
    assert choose_split(two, None) == "split1"
    with pytest.raises(DataError, match="no split 'split9'; it has split1"):
        choose_split(two, "split9")
    bare = [VideoRecord(id=f"{i}", path=f"{i}", label=0) for i in range(4)]
    store = make_store(tmp_path / "s.zarr", [make_spec()], bare)
    with pytest.raises(DataError, match="names no split"):
        choose_split(store, None)


def test_videos_that_a_backbone_saw_are_refused(tmp_path: Path) -> None:
    videos = make_videos(12)
    store = make_store(tmp_path / "s.zarr", [make_spec()], videos, trained_on=[videos[9].id, videos[0].id])
    mix = choose_mix(store, MixRequest())
    require_unseen(store, mix, np.array([1, 2, 10]), "split1", "test")
    with pytest.raises(
        DataError, match=r"1 of the 3 test videos of split1 was in the training of r2d26 \(a/"
    ):
        require_unseen(store, mix, np.array([9, 10, 11]), "split1", "test")


def held(labels: list[int], groups: list[str], share: float = 0.2, seed: int = 0) -> list[int]:
    rows = np.arange(len(labels))
    train, validation = group_split(rows, np.array(labels, dtype=np.int32), groups, share=share, seed=seed)
    assert sorted([*train, *validation]) == rows.tolist()
    assert set(np.array(labels)[train]) == set(labels)
    return validation.tolist()


def test_the_held_out_share_is_of_every_class() -> None:
    labels = [0] * 50 + [1] * 20 + [2] * 10
    counts = np.bincount(np.array(labels)[held(labels, [""] * 80)])
    assert counts.tolist() == [10, 4, 2]


def test_the_seed_decides_what_is_held_out() -> None:
    labels, groups = [0, 1] * 50, [""] * 100
    assert held(labels, groups) == held(labels, groups) != held(labels, groups, seed=1)


def test_groups_stay_together() -> None:
    labels = [label for label in range(3) for _ in range(40)]
    groups = [f"g{i % 10}" if label else f"only-{i % 8}" for label in range(3) for i in range(40)]
    chosen = set(held(labels, groups))
    for group in set(groups):
        members = {i for i, name in enumerate(groups) if name == group}
        assert members <= chosen or not members & chosen
    counts = np.bincount(np.array(labels)[sorted(chosen)])
    assert (abs(counts - 8) <= 4).all()


def test_small_classes_keep_training_videos() -> None:
    assert len(held([0, 0, 1, 1, 2], [""] * 5)) == 2  # one of each class that has two
    assert held([0, 1], ["", ""]) == []
    assert held([0, 0, 1, 1], ["a", "a", "b", "b"]) == []
    assert len(held([0] * 3, [""] * 3, share=0.99)) == 2
