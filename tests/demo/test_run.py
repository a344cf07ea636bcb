"""The demo's whole way on a set too small to learn from: what it makes, and that it makes it once."""

from __future__ import annotations

import json
from pathlib import Path

from faster.demo.events import EventSet
from faster.demo.run import CHEAP, EXPENSIVE, DemoConfig, demo
from faster.demo.video_files import planned_videos
from log_lines import logged


def test_the_demo_ends_in_a_table_a_plot_and_a_page_and_is_not_done_twice(tmp_path: Path) -> None:
    config = DemoConfig(
        folder=str(tmp_path / "demo"),
        events=EventSet(
            videos_per_class=6,
            test_videos_per_class=1,
            singles_per_kind=9,
            test_singles_per_kind=1,
            size=32,
            seed=4,
        ),
        sizes=(48, 32),
        backbone_epochs=2,
        aggregator_epochs=1,
        seeds=(0, 1),
        cells=(("average", "1:3"), ("fast-gru", "1:3")),
    )
    said: list[str] = []
    with logged(said):
        result = demo(config, progress=False)
    assert len(said) == len(result.seconds) == 6
    assert [(row.aggregator, row.seeds) for row in result.rows] == [("average", (0, 1)), ("fast-gru", (0, 1))]
    assert result.rows[1].gflops_per_video > result.rows[0].gflops_per_video > 0
    assert result.prediction.top() and result.label in result.prediction.class_names
    assert json.loads(json.dumps(result.to_dict()))["page"] == str(result.files.page)
    for model, size in zip((EXPENSIVE, CHEAP), config.sizes, strict=True):
        trained = json.loads((tmp_path / "demo" / "weights" / f"{model}.run" / "config.json").read_text())
        settled = trained["train_backbone"]
        assert (settled["size"], settled["seed"]) == (size, 4)
    page = result.files.page.read_text()
    assert "fast-gru" in page and "50.0" in page and "16.7" in page
    assert result.files.plot_png.read_bytes().startswith(b"\x89PNG")

    made = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("maps/c/**/*") if path.is_file()
    }
    with logged(said):
        again = demo(config, progress=False)
    assert again.rows == result.rows
    assert made and all(path.stat().st_mtime_ns == when for path, when in made.items())


def test_another_seed_is_another_demo_throughout() -> None:
    first, second = (DemoConfig.of_seed(seed, folder="demo") for seed in (0, 1))
    assert first == DemoConfig(folder="demo")
    assert (first.events.seed, second.events.seed) == (0, 1)
    assert first.seeds != second.seeds
    names = [{video.path.name for video in planned_videos(config.events)} for config in (first, second)]
    assert not names[0] & names[1]
