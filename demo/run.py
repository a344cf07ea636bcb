"""Run the complete pipeline on a small set of real videos, in minutes, for `faster demo`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..aggregate.report.write import Confusion, ReportFiles, ReportMeta, ReportRow, write_page
from ..aggregate.train import TrainConfig, TrainResult, train_agg
from ..extract.run import ExtractConfig, extract
from ..extract.train_backbone.train import TrainBackboneConfig, TrainBackboneResult, train_backbone
from ..predict.predictor import Prediction, Predictor
from ..runtime.file_names import require_text
from ..terminal.log_output import quiet
from ..terminal.text import counted
from .events import EventSet, average_ceiling, chance, clip_ceiling
from .video_files import planned_videos, write_set, write_singles

logger = logging.getLogger(__name__)


EXPENSIVE, CHEAP = "r2d14-w8", "r2d14-w4"
# (aggregator, pattern): averaging and recurrent aggregators on the same mixtures, from all-cheap to
# all-expensive.
CELLS = (
    ("average", "all-C"),
    ("average", "1:3"),
    ("average", "all-E"),
    ("gru", "1:3"),
    ("fast-gru", "all-C"),
    ("fast-gru", "1:3"),
    ("fast-gru", "1:1"),
    ("fast-gru", "all-E"),
)
PREDICTING = ("fast-gru", "1:3")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The demo's parameters; they were fixed before any result was known.

    Attributes:
        folder: for the videos, the weights, the store, the runs and the report.
        events: the videos; see `EventSet`.
        sizes: side of a frame in pixels, for the expensive and the cheap backbone.
        clips, clip_frames: of the extraction; the clips lie end to end.
        backbone_epochs, backbone_learning_rate, aggregator_epochs: of the two training stages.
        seeds: of the aggregators; backbones are trained once.
        cells: (aggregator, pattern) pairs.
    """

    folder: str = "faster-demo"
    events: EventSet = field(default_factory=EventSet)
    sizes: tuple[int, int] = (48, 40)
    clips: int = 8
    clip_frames: int = 8
    backbone_epochs: int = 10
    backbone_learning_rate: float = 0.02
    aggregator_epochs: int = 30
    seeds: tuple[int, ...] = (0, 1)
    cells: tuple[tuple[str, str], ...] = CELLS

    @classmethod
    def of_seed(cls, seed: int, *, folder: str) -> DemoConfig:
        """Return the demo with another seed for videos and backbones, and two seeds for the aggregators."""
        return cls(folder=folder, events=EventSet(seed=seed), seeds=(seed, seed + 1))


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The demo's result.

    Attributes:
        rows: a row of the table for each cell, with one accuracy per seed.
        backbones: the training results, the expensive backbone first.
        prediction: of one test video, whose true class is `label`.
        seconds: of each step.
    """

    rows: tuple[ReportRow, ...]
    backbones: tuple[TrainBackboneResult, ...]
    prediction: Prediction
    label: str
    files: ReportFiles
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "backbones": [backbone.to_dict() for backbone in self.backbones],
            "prediction": {**self.prediction.to_dict(), "label": self.label},
            "page": str(self.files.page),
            "plot": str(self.files.plot_png),
            "seconds": self.seconds,
        }


def demo(config: DemoConfig, *, progress: bool = True) -> DemoResult:
    """Render videos, train two backbones, extract both, train and evaluate aggregators, predict, report.

    A second run in the same folder does only the steps that are not done yet.

    Raises:
        FasterError: as the stages do.
    """
    require_text(config.folder, "--folder")
    folder, events, clock = Path(config.folder), config.events, _Clock()
    with clock.step("render", "rendering labelled videos, of one event and of two"):
        write_singles(events, folder / "singles", progress=progress)
        write_set(events, folder / "videos", progress=progress)
    backbones = []
    for model, size in zip((EXPENSIVE, CHEAP), config.sizes, strict=True):
        with clock.step(f"train {model}", f"training the backbone {model} on videos of one event"):
            backbones.append(train_backbone(_backbone_config(config, model, size), progress=progress))
    with clock.step("extract", "extracting both models' maps of every clip, one decode for both"):
        extract(_extract_config(config), progress=progress)
    results: dict[tuple[str, str], list[TrainResult]] = {cell: [] for cell in config.cells}
    with clock.step(
        "aggregate",
        f"training {counted(len(config.cells), 'aggregator')} on the maps, "
        f"{counted(len(config.seeds), 'seed')} each where there is something to train",
    ):
        for cell, seed in _progress(config, progress):
            results[cell].append(train_agg(_aggregator_config(config, *cell, seed), progress=False))
    with clock.step("predict", "classifying one video of the test part, live"):
        video = next(video for video in planned_videos(events) if video.path.parts[0] == "test")
        run = results[PREDICTING][0].run
        (prediction,) = Predictor(run).predict([folder / "videos" / video.path])
    rows = tuple(_row(config, *cell, found) for cell, found in results.items())
    files = write_page(rows, _meta(config, backbones, results[PREDICTING][0]), folder / "report")
    return DemoResult(
        rows=rows,
        backbones=tuple(backbones),
        prediction=prediction,
        label=events.class_names[video.label],
        files=files,
        seconds=clock.seconds,
    )


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, line: str) -> Iterator[None]:
        logger.info(f"{len(self.seconds) + 1}. {line}")
        started = time.perf_counter()
        with quiet():  # hides the messages of the stages
            yield
        self.seconds[name] = time.perf_counter() - started


def _backbone_config(config: DemoConfig, model: str, size: int) -> TrainBackboneConfig:
    return TrainBackboneConfig(
        model=model,
        source=str(Path(config.folder) / "singles"),
        out=str(Path(config.folder) / "weights"),
        clip_frames=config.clip_frames,
        size=size,
        epochs=config.backbone_epochs,
        learning_rate=config.backbone_learning_rate,
        validation_share=0.0,
        validation_clips=config.clips // 2,
        seed=config.events.seed,
    )


def _extract_config(config: DemoConfig) -> ExtractConfig:
    folder = Path(config.folder)
    return ExtractConfig(
        models=(EXPENSIVE, CHEAP),
        source=str(folder / "videos"),
        store=str(folder / "demo.zarr"),
        weights=tuple(str(folder / "weights" / f"{model}.safetensors") for model in (EXPENSIVE, CHEAP)),
        clip_frames=config.clip_frames,
        clips=config.clips,
    )


def _aggregator_config(config: DemoConfig, aggregator: str, pattern: str, seed: int) -> TrainConfig:
    folder = Path(config.folder)
    name = f"{aggregator}-{pattern.replace(':', '-')}-s{seed}"
    return TrainConfig(
        store=folder / "demo.zarr",
        aggregator=aggregator,
        pattern=pattern,
        out=folder / "runs" / name,
        epochs=config.aggregator_epochs,
        seed=seed,
        device="cpu",
    )


def _progress(config: DemoConfig, shown: bool) -> Iterator[tuple[tuple[str, str], int]]:
    from ..terminal.progress_bars import tqdm

    pairs = [(cell, seed) for cell in config.cells for seed in config.seeds]
    yield from tqdm(pairs, desc="aggregate", unit="run", disable=not shown)


def _row(config: DemoConfig, aggregator: str, pattern: str, results: list[TrainResult]) -> ReportRow:
    return ReportRow(
        aggregator=aggregator,
        pattern=pattern,
        clips=config.clips,
        seeds=config.seeds,
        top1=tuple(result.report.metrics.top1 for result in results),
        gflops_per_video=results[0].report.gflops_per_video,
    )


def _meta(config: DemoConfig, backbones: list[TrainBackboneResult], shown: TrainResult) -> ReportMeta:
    events, report = config.events, shown.report
    return ReportMeta(
        title="FASTER in minutes: ordered pairs of events",
        lines=(
            f"{events.videos_per_class - events.test_videos_per_class} training and "
            f"{events.test_videos_per_class} "
            f"test videos for each of {counted(len(events.class_names), 'class', 'classes')}, "
            f"{counted(events.frames, 'frame')} of {events.size}×"
            f"{events.size}, rendered with seed {events.seed}",
            *(
                f"{model} at {size}×{size}: {counted(config.backbone_epochs, 'epoch')} from scratch on "
                f"{events.singles_per_kind - events.test_singles_per_kind} videos of one event for each of "
                f"{events.events} kinds; knows the kind of {100 * (backbone.test_top1 or 0):.1f} % of others"
                for model, size, backbone in zip((EXPENSIVE, CHEAP), config.sizes, backbones, strict=True)
            ),
            f"{counted(config.clips, 'clip')} of {counted(config.clip_frames, 'frame')} a video, both "
            "models, from one store",
            f"each aggregator: {counted(config.aggregator_epochs, 'epoch')}, seeds "
            f"{', '.join(map(str, config.seeds))}; the best "
            "epoch chosen on a share of the training videos, the test part looked at once",
            "made by: faster demo",
        ),
        ceilings=(
            ("averaging at best", average_ceiling(events.events)),
            ("one clip at best", clip_ceiling(events.events)),
            ("chance", chance(events.events)),
        ),
        coverage=(f"test part: {report.coverage}",),
        confusions=(
            Confusion(
                counts=report.confusion,
                class_names=report.class_names,
                caption=f"Confusion of {' '.join(PREDICTING)}, seed {config.seeds[0]}",
            ),
        ),
    )
