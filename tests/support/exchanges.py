"""Exports and imports without prints, and feature files to import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from faster import store as stores
from faster.exchange.export import ExportConfig, ExportSummary, export
from faster.exchange.import_features import ImportConfig, ImportSummary, import_features
from stores import make_spec, make_store, make_videos

GONE = stores.VideoRecord(id="b/gone.mp4", path="b/gone.mp4", label=1, splits={"split1": "test"})
ALL = np.arange(4)


def run_export(store: Path, out: Path, **options: object) -> ExportSummary:
    return export(ExportConfig(store=store, out=out, **options), progress=False)  # type: ignore[arg-type]


def run_import(source: Path, store: Path, model: str = "i3d", **options: object) -> ImportSummary:
    config = ImportConfig(source=source, store=store, model=model, **options)  # type: ignore[arg-type]
    return import_features(config, progress=False)


def foreign(source: Path, store: Path, **options: object) -> ImportSummary:
    return run_import(source, store, **{"gflops": 2.5, "clip_frames": 16, **options})


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def features(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def make_original(path: Path) -> stores.Store:
    """10 videos in 3 shards, one failed, one never on disk, one a segment; maps as uint8 in zstd for one model."""
    videos = make_videos(10)
    videos[5] = replace(
        videos[5], id=f"{videos[5].id}#t=0,1.5", group="g", start_seconds=0.0, end_seconds=1.5
    )
    specs = [
        make_spec(),
        make_spec("r2plus1d50", num_classes=0, class_names=None, dtype="uint8", codec="zstd"),
    ]
    return make_store(path, specs, videos, failed={2: "no frames"}, missing=[GONE], trained_on=["a/x.mp4"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
