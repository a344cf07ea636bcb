"""The store as a Dataset: what the training and the evaluation read, one video at a time."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster import store as stores
from faster.aggregate import ClipMaps
from faster.aggregate.data.loader import ClipReader, TrainLoader, drawn_clips, uniform_batches
from faster.aggregate.data.mix import MixRequest, choose_mix, subset_rows
from faster.errors import DataError, UsageError
from faster.store import Store
from stores import make_maps, make_spec, make_store, make_videos
from torch.utils.data import DataLoader, default_collate

SPECS = [make_spec("dear", clips=8), make_spec("cheap", clips=8)]
GFLOPS = {"dear": 9.0, "cheap": 1.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("s") / "s.zarr", SPECS, make_videos(24), gflops=GFLOPS)


def reader_of(store: Store, **asked: Any) -> ClipReader:
    return ClipReader(choose_mix(store, MixRequest(**asked)), store.videos.labels, reads="maps")


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a
    )


def test_the_test_part_is_what_an_evaluation_reads(store: Store) -> None:
    data = ClipMaps(store.path, pattern="1:3", part="test", clips=4)
    reader = reader_of(store, pattern="1:3", clips=4)
    rows, _ = subset_rows(store, reader.mix, "split1", "test")
    assert len(data) == len(rows) and data.models == ("dear", "cheap") and data.class_names == ("a", "b", "c")
    (batch,) = uniform_batches(reader, rows, batch_size=len(rows))
    collated = default_collate([data[i] for i in range(len(data))])
    assert torch.equal(collated["maps"], batch.dense(torch.float16))
    assert collated["maps"].shape == (len(rows), 4, 1, 2, 2, 16) and collated["maps"].dtype == torch.float16
    assert torch.equal(collated["models"], batch.model_of) and collated["models"].tolist()[0] == [0, 1, 1, 1]
    assert torch.equal(collated["label"], batch.labels) and torch.equal(collated["row"], batch.videos)
    assert data.labels.tolist() == batch.labels.tolist()
    clips = [make_maps(SPECS[0 if t == 0 else 1], int(rows[0]))[0][2 * t] for t in range(4)]
    assert np.array_equal(data[0]["maps"].numpy(), np.stack(clips))


def test_the_train_part_draws_as_training_does(store: Store) -> None:
    data = ClipMaps(store.path, pattern="1:1", clips=4, seed=3)
    reader = reader_of(store, pattern="1:1", clips=4)
    data.set_epoch(5)
    for index, row in enumerate(data.rows[:4]):
        plan = drawn_clips(reader.mix, np.array([row]), np.random.default_rng([3, 5, row]))
        assert torch.equal(data[index]["maps"], reader.read(*plan).dense(torch.float16)[0])
    rows = {
        int(row)
        for step in range(3)
        for row in TrainLoader(reader, data.rows, batch_size=6, seed=0).rows_of(0, step)
    }
    assert rows == set(data.rows.tolist())
    fifth = [data[i] for i in range(len(data))]
    assert all(
        same(item, again) for item, again in zip(fifth, data.__getitems__(range(len(data))), strict=True)
    )
    data.set_epoch(6)
    assert not all(same(item, data[i]) for i, item in enumerate(fifth))
    other = ClipMaps(store.path, pattern="1:1", clips=4, seed=4)
    other.set_epoch(5)
    assert not all(same(item, other[i]) for i, item in enumerate(fifth))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_same(store: Store, context: str) -> None:
    data = ClipMaps(store.path, pattern="1:3", clips=4, seed=1)
    data.set_epoch(2)
    alone = list(DataLoader(data, batch_size=5))
    loader = DataLoader(data, batch_size=5, num_workers=2, multiprocessing_context=context)
    shared = list(loader)
    assert len(alone) == len(shared) == -(-len(data) // 5)
    assert all(same(a, b) for a, b in zip(alone, shared, strict=True))


def test_it_can_be_pickled_before_and_after_reading(store: Store) -> None:
    data = ClipMaps(store.path, part="test", pattern="all-C")
    fresh = pickle.loads(pickle.dumps(data))
    item = data[0]
    assert same(item, fresh[0]) and same(item, pickle.loads(pickle.dumps(data))[0])


def test_maps_of_two_shapes_are_a_list_of_clips(tmp_path: Path) -> None:
    specs = [make_spec("dear", clips=8), make_spec("cheap", clips=8, map_shape=(1, 1, 1, 4))]
    store = make_store(tmp_path / "s.zarr", specs, make_videos(12), gflops=GFLOPS)
    data = ClipMaps(store.path, pattern="1:1", clips=4, part="test")
    batch = next(iter(DataLoader(data, batch_size=3)))
    assert [tuple(maps.shape) for maps in batch["maps"]] == [(3, 1, 2, 2, 16), (3, 1, 1, 1, 4)] * 2
    row = int(data.rows[1])
    assert np.array_equal(batch["maps"][2][1].numpy(), make_maps(specs[0], row)[0][4])


def test_quantised_maps_come_as_float16(tmp_path: Path) -> None:
    spec = make_spec("dear", clips=8, dtype="uint8")
    store = make_store(tmp_path / "s.zarr", [spec], make_videos(12))
    data = ClipMaps(store.path, part="test", clips=8)
    stored = store.features("dear", 8).read_maps(rows=[int(data.rows[0])], views=0, clips=list(range(8)))
    assert data[0]["maps"].dtype == torch.float16 and np.array_equal(data[0]["maps"].numpy(), stored)


def test_what_cannot_be_read_is_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes one pattern"):
        ClipMaps(store.path, pattern="any")
    with pytest.raises(UsageError, match="no part is called 'tset'"):
        ClipMaps(store.path, part="tset")
    with pytest.raises(DataError, match="no labelled val video of split1 has maps"):
        ClipMaps(store.path, part="val")
    with pytest.raises(IndexError):
        ClipMaps(store.path)[24]
    ids = [video.id for video in make_videos(24)]
    seen = make_store(tmp_path / "s.zarr", SPECS[:1], make_videos(24), trained_on=ids)
    with pytest.raises(DataError, match="in the training of dear"):
        ClipMaps(seen.path, part="test")
    assert len(ClipMaps(seen.path)) == 18
    assert isinstance(stores.open(seen.path), Store)
