"""Grids: which cells they have, and which of those stay empty."""

from __future__ import annotations

from typing import Any

import pytest
from faster.aggregate.sweep.grid import AvailableFeatures, Grid, expand
from faster.aggregate.sweep.units import share_batches
from faster.errors import DataError, UsageError

HELD = {
    8: AvailableFeatures(gflops={"r2plus1d50": 30.0, "r2d26": 3.2}, clips=32),
    16: AvailableFeatures(gflops={"r2plus1d50": 60.0, "r2d26": 6.3}, clips=16),
    32: AvailableFeatures(gflops={"r2plus1d50": 119.9, "r3d50": 117.8, "r2d26": 12.7}, clips=8),
}
TWO = {length: HELD[length] for length in (8, 16)}


def test_table_4_leaves_the_cells_empty_that_the_paper_leaves_empty() -> None:
    held = {**TWO, 32: AvailableFeatures(gflops={"r2plus1d50": 119.9, "r2d26": 12.7}, clips=8)}
    cells, empty = expand(Grid(table=4, seeds=2), held)
    assert len(cells) == 2 * 15 and {cell.aggregator for cell in cells} == {"fast-gru"}
    assert [(hole.cell.clip_frames, str(hole.cell.pattern)) for hole in empty] == [
        (16, "1:31"),
        (32, "1:15"),
        (32, "1:31"),
    ]
    assert empty[0].reason == "1:31 needs 32 clips, there are 16"
    assert {(cell.clip_frames, cell.clips) for cell in cells} == {(8, 32), (16, 16), (32, 8)}


def test_table_2_is_every_model_at_every_length() -> None:
    cells, empty = expand(Grid(table=2, seeds=1), HELD)
    assert [(cell.clip_frames, cell.expensive, cell.clips, cell.cheap) for cell in cells] == [
        (8, "r2plus1d50", 32, None),
        (8, "r2d26", 32, None),
        (16, "r2plus1d50", 16, None),
        (16, "r2d26", 16, None),
        (32, "r2plus1d50", 8, None),
        (32, "r3d50", 8, None),
        (32, "r2d26", 8, None),
    ]
    assert {(cell.aggregator, str(cell.pattern)) for cell in cells} == {("average", "all-E")} and not empty


def test_table_3_and_figure_3() -> None:
    cells, _ = expand(Grid(table=3, seeds=1), TWO)
    assert [(cell.clips, str(cell.pattern)) for cell in cells[:5]] == [
        (2, "1:1"),
        (4, "1:3"),
        (8, "1:7"),
        (16, "1:15"),
        (32, "1:31"),
    ]
    assert len(cells) == 25 and {cell.clip_frames for cell in cells} == {8}
    cells, empty = expand(Grid(figure=3, seeds=1, clip_frames=16), {16: TWO[16]})
    assert len(cells) == 3 * 4 and len(empty) == 3  # 32 clips are not there
    assert {(c.aggregator, str(c.pattern)) for c in cells if c.clips == 8} == {
        ("average", "all-E"),
        ("average", "all-C"),
        ("fast-gru", "1:7"),
    }


def test_a_named_model_need_only_be_there_at_the_grids_length() -> None:
    assert len(expand(Grid(table=6, expensive="r3d50", cheap="r2d26", seeds=1), HELD)[0]) == 3
    assert len(expand(Grid(table=3, expensive="r2plus1d50", cheap="r2d26", seeds=1), HELD)[0]) == 25


def test_table_6_compares_the_expensive_models() -> None:
    cells, _ = expand(Grid(table=6, seeds=1), HELD)
    assert [(cell.aggregator, str(cell.pattern), cell.expensive, cell.cheap) for cell in cells] == [
        (aggregator, pattern, model, None if pattern == "all-E" else "r2d26")
        for model in ("r2plus1d50", "r3d50")
        for aggregator, pattern in (("average", "all-E"), ("fast-gru", "1:1"), ("fast-gru", "1:3"))
    ]
    assert {(cell.clip_frames, cell.clips) for cell in cells} == {(32, 8)}


def test_a_grid_of_ones_own() -> None:
    grid = Grid(aggregators=("gru", "lstm"), patterns=("1:3", "all-c"), clips=(4, 64), seeds=2)
    cells, empty = expand(grid, TWO)
    assert len(cells) == 2 * 2 * 2 * 2 and len(set(cells)) == len(cells)
    assert {hole.reason for hole in empty} == {
        "the store holds 32 clips a video, not 64",
        "the store holds 16 clips a video, not 64",
    }
    assert {str(cell.pattern) for cell in cells} == {"1:3", "all-C"}
    units = share_batches(cells)
    assert len(units) == 2 * 2 * 2 and all(
        {cell.batches for cell in unit} == {unit[0].batches} for unit in units
    )


def test_one_model_leaves_mixtures_empty() -> None:
    alone = {8: AvailableFeatures(gflops={"r2plus1d50": 30.0}, clips=8)}
    cells, empty = expand(Grid(aggregators=("gru",), seeds=1), alone)
    assert [str(cell.pattern) for cell in cells] == ["all-E"]
    assert empty[0].reason == "1:1 needs two models, the store has r2plus1d50"


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"table": 3, "figure": 3}, UsageError, "two grids"),
        ({"table": 4, "patterns": ("1:3",)}, UsageError, "leave those out"),
        ({"table": 5}, UsageError, "--table is 5; allowed: 2, 3, 4, 6"),
        ({"figure": 4}, UsageError, "--figure is 4; allowed: 3"),
        ({"seeds": 0}, UsageError, "--seeds is 0; it must be at least 1"),
        ({"patterns": ("1-3",)}, UsageError, "not understood"),
        ({"expensive": "resnet"}, DataError, "no maps of resnet at 8 frames; it has r2plus1d50, r2d26"),
        ({}, UsageError, "the store has 3 models, r2plus1d50, r3d50, r2d26; name one with --expensive"),
    ],
)
def test_grids_that_cannot_be_meant(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        expand(Grid(**values), HELD)
