"""Backbones of different libraries, channels and sizes, from videos to predictions: 512 channels against 2048."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from faster import store as stores
from faster.aggregate.evaluation.evaluate import evaluate
from faster.aggregate.models.shape_adapter import ShapeAdapter
from faster.aggregate.runs import load_run
from faster.aggregate.train import TrainConfig, train_agg
from faster.errors import UsageError
from faster.extract.backbones import build
from faster.extract.backbones.weights.load import WeightsInfo, load_weights, save_weights
from faster.extract.run import ExtractConfig, extract
from faster.extract.video.decode import load_clips
from faster.extract.video.transforms import normalise
from faster.predict.predictor import Predictor
from libraries import use_library
from log_lines import logged
from networks import randomised
from sets import make_bright_set

DEAR, CHEAP = "r2d14", "torchvision:r3d_18"


def test_from_videos_to_predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    use_library("torchvision", monkeypatch, stand_in=True)
    videos = make_bright_set(tmp_path / "videos", per_class=4, tests=1)
    # Backbones with weights of their own sizes; the smaller map comes from the library's.
    save_weights(randomised(DEAR), Path(f"weights/{DEAR}.safetensors"), WeightsInfo(model=DEAR, size=64))
    torch.manual_seed(0)
    torch.save(build(CHEAP).state_dict(), "weights/torchvision-r3d_18.pth")
    said: list[str] = []
    settings = {
        "source": str(videos),
        "store": "s.zarr",
        "models": (DEAR, CHEAP),
        "clips": 4,
        "precision": "float32",
    }

    monkeypatch.setattr("faster.extract.backbones.libraries.torchvision_models.VideoResNet.size", 48)
    with logged(said):
        summary = extract(ExtractConfig(**settings, clip_frames=8), progress=False)
    assert summary.whole == 8 and not summary.failed
    assert any("at 48×48 and 64×64" in line for line in said)
    store = stores.open("s.zarr")
    specs = {model: store.features(model, 8).spec for model in (DEAR, CHEAP)}
    assert specs[DEAR].map_shape == (1, 2, 2, 2048) and specs[CHEAP].map_shape == (1, 3, 3, 512)
    assert (specs[DEAR].transform["size"], specs[CHEAP].transform["size"]) == (64, 48)
    assert (specs[DEAR].frame_stride, specs[CHEAP].frame_stride) == (1, 2)

    backbone, _ = load_weights(CHEAP)
    video = load_clips(videos / store.videos.paths[3], clips=4, clip_frames=8, frame_stride=2, size=48)
    with torch.no_grad():
        plain = backbone.features(normalise(torch.from_numpy(video.clips), backbone.mean, backbone.std))
    np.testing.assert_allclose(
        store.features(CHEAP, 8).read_maps(3, 0, np.arange(4)), plain.numpy(), rtol=5e-3, atol=1e-3
    )

    config = TrainConfig(
        store="s.zarr", out="run", expensive=DEAR, pattern="1:3", epochs=2, batch_size=4, device="cpu"
    )
    with logged(said):
        result = train_agg(config, progress=False)
    assert any("averaged to 1×2×2, and projected to 2048 channels" in line for line in said)
    run = load_run(result.run)
    assert isinstance(run.aggregator, ShapeAdapter)
    figures = evaluate(run, device="cpu")

    predictor = Predictor(run, device="cpu")
    tested = [store.videos.paths[row] for row in np.flatnonzero(store.videos.split(run.config.split) == 3)]
    for path, prediction in zip(tested, predictor.predict([videos / path for path in tested]), strict=True):
        assert not prediction.reason and prediction.clips_of == {DEAR: 1, CHEAP: 3}
        assert prediction.gflops == pytest.approx(figures.gflops_per_video, rel=1e-9)
        stored = stored_probabilities(figures.predictions, path)
        for name, probability in stored.items():
            assert dict(zip(prediction.class_names, prediction.probabilities, strict=True))[
                name
            ] == pytest.approx(probability, abs=2e-3)


def test_clips_follow_what_the_networks_were_made_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    use_library("torchvision", monkeypatch, stand_in=True)
    videos = make_bright_set(tmp_path / "videos", per_class=1, tests=0)
    for model, frames in (("r2d14-w4", 16), ("r2d14-w2", 24)):
        info = WeightsInfo(model=model, clip_frames=frames, size=32)
        save_weights(randomised(model), Path(f"weights/{model}.safetensors"), info)

    def run(*models: str, **changes: object) -> list[stores.FeatureSpec]:
        config = ExtractConfig(
            source=str(videos), store=f"{len(models)}.zarr", models=models, allow_random=True, **changes
        )
        extract(config, progress=False)
        store = stores.open(config.store)
        return [store.features(model, frames).spec for model, frames in store.models]

    (spec,) = run("r2d14-w4")  # as its weights were trained
    assert (spec.clip_frames, spec.clips, spec.transform["size"]) == (16, 16, 32)
    with pytest.raises(
        UsageError, match=r"differ in length \(r2d14-w4 16, r2d14-w2 24 frames\); name one with --clip-frames"
    ):
        run("r2d14-w4", "r2d14-w2")
    both = run("r2d14-w4", "r2d14-w2", clip_frames=8, clips=2)
    assert [(spec.clip_frames, spec.clips) for spec in both] == [(8, 2)] * 2
    for flag, value in (("size", 112), ("clip_frames", 8)):
        with pytest.raises(
            UsageError, match=rf"torchvision:mvit_v2_s takes --{flag.replace('_', '-')} \d+ and no other"
        ):
            run("torchvision:mvit_v2_s", **{flag: value})


def stored_probabilities(table: Path, video: str) -> dict[str, float]:
    """The row of a predictions file, class → probability."""
    rows = [line.split(",") for line in table.read_text().splitlines()]
    row = next(row for row in rows if row[0] == video)
    return {row[i]: float(row[i + 1]) for i in range(3, len(row), 2)}
