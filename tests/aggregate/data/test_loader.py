"""Batches against clips read one by one, and the drawing of them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from faster.aggregate.data.loader import ClipReader, TrainLoader, uniform_batches
from faster.aggregate.data.mix import MixRequest, choose_mix
from faster.errors import StoreError
from stores import make_maps, make_spec, make_store, make_videos

SPECS = {name: make_spec(name, clips=8, views=1) for name in ("dear", "cheap")}
ROWS = np.array([0, 2, 3, 5, 6, 7, 8, 10, 11])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("loader") / "s.zarr"
    return make_store(
        path, list(SPECS.values()), make_videos(12), gflops={"dear": 9.0, "cheap": 1.0}, failed={9: "x"}
    )


def reader_of(store, reads: str = "maps", **asked: object) -> ClipReader:
    return ClipReader(choose_mix(store, MixRequest(**asked)), store.videos.labels, reads=reads)


@pytest.mark.parametrize("reads", ["maps", "logits"])
@pytest.mark.parametrize("pattern", ["1:2", "all-E", "all-C"])
def test_training_batches_hold_the_clips_of_the_plan(store, pattern: str, reads: str) -> None:
    reader = reader_of(store, reads, pattern=pattern, clips=4)
    loader = TrainLoader(reader, ROWS, batch_size=4, seed=5)
    which = {"1:2": "dccd", "all-E": "dddd", "all-C": "cccc"}[pattern]
    assert loader.steps_per_epoch == 3
    for step, batch in enumerate(loader.batches(epoch=2)):
        rows, _, clips, _ = loader.plan(2, step)
        assert batch.videos.tolist() == rows.tolist()
        assert batch.labels.tolist() == [row % 3 for row in rows]
        dense = batch.dense(torch.float32).numpy()
        for i, row in enumerate(rows):
            for t, clip in enumerate(clips[i]):
                spec = SPECS["dear" if which[t] == "d" else "cheap"]
                expected = make_maps(spec, int(row))[0 if reads == "maps" else 1][clip]
                np.testing.assert_array_equal(dense[i, t], expected.astype(np.float32))
    if which[0] == which[1]:
        model = batch.models[0]
        assert (
            batch.dense(torch.float16 if reads == "maps" else torch.float32).data_ptr()
            == batch.inputs[model].data_ptr()
        )


def test_the_plan_is_a_function_of_seed_epoch_and_step(store) -> None:
    def plans(seed: int, epoch: int) -> list[list]:
        loader = TrainLoader(reader_of(store, clips=4), ROWS, batch_size=4, seed=seed)
        return [[part.tolist() for part in loader.plan(epoch, step)] for step in range(3)]

    assert plans(1, 0) == plans(1, 0)
    assert plans(1, 0) != plans(1, 1) and plans(1, 0) != plans(2, 0)
    rows = [row for step in plans(1, 0) for row in step[0]]
    assert sorted(rows) == ROWS.tolist() and rows != ROWS.tolist()
    assert [len(step[0]) for step in plans(1, 0)] == [3, 3, 3]


def test_training_draws_without_replacement_in_time_order_and_covers_the_grid(store) -> None:
    loader = TrainLoader(reader_of(store, clips=3), ROWS, batch_size=9, seed=0)
    drawn = np.concatenate([loader.plan(epoch, 0)[2] for epoch in range(40)])
    assert (np.diff(drawn, axis=1) > 0).all()
    counts = np.bincount(drawn.ravel(), minlength=8)
    assert len(counts) == 8 and counts.min() > 0.6 * counts.mean()


def test_resuming_an_epoch_gives_its_remaining_batches(store) -> None:
    loader = TrainLoader(reader_of(store, clips=4), ROWS, batch_size=4, seed=5)
    whole, rest = list(loader.batches(1)), list(loader.batches(1, start_step=1))
    assert len(rest) == 2
    for a, b in zip(whole[1:], rest, strict=True):
        assert torch.equal(a.dense(torch.float16), b.dense(torch.float16)) and torch.equal(a.videos, b.videos)


def test_views_are_drawn_among_the_whole_ones(store) -> None:
    reader = reader_of(store, clips=2)
    reader.mix.__dict__["whole"] = np.array([[True, row % 2 == 0, row % 3 == 0] for row in range(12)])
    loader = TrainLoader(reader, ROWS, batch_size=9, seed=0)
    seen: dict[int, set[int]] = {}
    for epoch in range(30):
        rows, views, *_ = loader.plan(epoch, 0)
        for row, view in zip(rows.tolist(), views.tolist(), strict=True):
            seen.setdefault(row, set()).add(view)
    assert seen == {
        row: {0} | ({1} if row % 2 == 0 else set()) | ({2} if row % 3 == 0 else set())
        for row in ROWS.tolist()
    }


@pytest.mark.parametrize(("clips", "expected"), [(4, [0, 2, 4, 6]), (1, [0]), (8, list(range(8)))])
def test_testing_takes_uniform_clips_in_order(store, clips: int, expected: list[int]) -> None:
    reader = reader_of(store, pattern="all-C", clips=clips)
    batches = list(uniform_batches(reader, ROWS, batch_size=4))
    assert [len(batch.videos) for batch in batches] == [4, 4, 1]
    dense = torch.cat([batch.dense(torch.float32) for batch in batches]).numpy()
    wanted = np.stack([make_maps(SPECS["cheap"], row)[0][expected] for row in ROWS.tolist()])
    np.testing.assert_array_equal(dense, wanted.astype(np.float32))


def test_an_abandoned_epoch_leaves_no_thread(store) -> None:
    loader = TrainLoader(reader_of(store, clips=4), ROWS, batch_size=2, seed=5)
    batches = loader.batches(0)
    next(batches)
    assert any(thread.name.startswith("clips") for thread in threading.enumerate())
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("clips") for thread in threading.enumerate())


def test_an_error_of_the_reader_reaches_the_loop(store) -> None:
    loader = TrainLoader(reader_of(store, clips=4), np.array([0, 9]), batch_size=2, seed=5)
    loader.reader.mix.__dict__["whole"] = np.ones((12, 1), dtype=bool)  # says what is not so of row 9
    with pytest.raises(StoreError, match="no maps of"):
        list(loader.batches(0))
