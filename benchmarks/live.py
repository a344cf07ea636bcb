"""Wall time of a FASTER mixture run live, beside all-expensive and all-cheap, and beside what the GFLOPs promise.

    python benchmarks/live.py                              # under three minutes on two cores
    python benchmarks/live.py --size 224 --device cuda:0   # the paper's FASTER32

Weights are random: only the time counts. Each repeat runs all mixtures in turn, so that they meet the same machine.
Seconds are medians over the repeats, ratios medians of the repeats' own ratios; "best" is the ratio of the fastest
repeats, for a machine that others use too. "forward" starts at uint8 clips in memory, "end to end" at an H.264 file,
decoded in its own process meanwhile. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.video
import numpy as np
import torch
from faster.aggregate.data.pattern import Pattern
from faster.aggregate.runs import Run, RunConfig
from faster.costs.tables import table_cells
from faster.extract.backbones.inference.frozen import FrozenBackbone
from faster.extract.backbones.weights.load import random_weights
from faster.extract.video.decode import load_clips
from faster.predict.predictor import Predictor
from faster.store import FeatureSpec

PAPER_SECONDS = {"All C": 15.1, "All E": 75.7, "FASTER32": 35.3}
"""Runtime over 100 videos of Kinetics on a TITAN X (Table 5)."""
CLASS_NAMES = tuple(f"class {i}" for i in range(400))


def main() -> None:
    """Measure, print a table, then one JSON line."""
    options = _options()
    if options.threads:
        torch.set_num_threads(options.threads)
    mixtures = {
        "faster": (options.pattern, "fast-gru"),
        "all-E": ("all-E", "average"),
        "all-C": ("all-C", "average"),
    }
    predictors = {
        name: Predictor(_random_run(options, pattern, aggregator), device=options.device)
        for name, (pattern, aggregator) in mixtures.items()
    }
    device = predictors["faster"].device
    with tempfile.TemporaryDirectory() as folder:
        video = _write_video(Path(folder) / "video.mp4", frames=max(256, options.clips * options.clip_frames))
        pixels = load_clips(
            video, clips=options.clips, clip_frames=options.clip_frames, size=options.size
        ).clips
        seconds: dict[str, dict[str, list[float]]] = {
            kind: {name: [] for name in mixtures} for kind in ("forward", "end_to_end")
        }
        for predictor in predictors.values():  # the first clips through a network are slower
            next(predictor.scores([pixels[:1]]))
        for _ in range(options.repeats):
            for name, predictor in predictors.items():
                seconds["forward"][name].append(_forward_seconds(predictor, pixels, options.videos))
            for name, predictor in predictors.items():
                seconds["end_to_end"][name].append(_end_to_end_seconds(predictor, video, options.videos))
    result: dict[str, Any] = {
        "benchmark": "live",
        "options": vars(options),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "gflops_per_video": {name: float(p.gflops_after[-1]) for name, p in predictors.items()},
        "paper": _paper_ratios(),
    }
    gflops = result["gflops_per_video"]
    result["gflops_ratio"] = {name: cost / gflops["all-E"] for name, cost in gflops.items()}
    for kind, of_name in seconds.items():
        result[kind] = {
            name: {
                "seconds_per_video": statistics.median(times),
                "worst_seconds": max(times),
                "gflops_per_second": gflops[name] / statistics.median(times),
                "best_seconds": min(times),
                "best_ratio_to_all_E": min(times) / min(of_name["all-E"]),
                "ratio_to_all_E": statistics.median(
                    own / dear for own, dear in zip(times, of_name["all-E"], strict=True)
                ),
            }
            for name, times in of_name.items()
        }
    _print_table(result)
    print(json.dumps(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expensive", default="r2plus1d50")
    parser.add_argument("--cheap", default="r2d26")
    parser.add_argument("--pattern", default="1:1")
    parser.add_argument("--clips", type=int, default=8, help="clips a video")
    parser.add_argument("--clip-frames", type=int, default=32)
    parser.add_argument("--size", type=int, default=112, help="pixels of a frame's side; the paper's is 224")
    parser.add_argument("--videos", type=int, default=1, help="videos timed in a repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", help="cpu, cuda:0, …; the first GPU, or the CPU, by default")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU")
    return parser.parse_args()


def _random_run(options: argparse.Namespace, pattern: str, aggregator: str) -> Run:
    """A run without a store: random backbones, which the predictor makes itself, and a random aggregator."""
    specs = {}
    for model in (options.expensive, options.cheap):
        backbone, info = random_weights(model)
        specs[model] = FeatureSpec(
            model=model,
            weights_digest=info.digest,
            weights_random=True,
            clip_frames=options.clip_frames,
            frame_stride=1,
            clips=options.clips,
            views=1,
            map_shape=FrozenBackbone(backbone).map_shape(options.clip_frames, options.size),
            num_classes=0,
            class_names=None,
            transform={"size": options.size},
            precision="float32",
            batch_clips=1,
        )
    config = RunConfig(
        store="",
        store_fingerprint="",
        split="",
        report_part="test",
        aggregator=aggregator,
        dropout=0.0,
        reads="maps",
        map_shapes={model: spec.map_shape for model, spec in specs.items()},
        pattern=Pattern.parse(pattern),
        clips=options.clips,
        clip_frames=options.clip_frames,
        expensive=options.expensive,
        cheap=options.cheap,
        class_names=CLASS_NAMES,
        models={model: {"spec": spec.to_dict(), "recorded": {}} for model, spec in specs.items()},
        validation_share=0.0,
        videos={},
    )
    return Run(path=Path(), config=config, aggregator=config.build().eval(), trained_on=frozenset())


def _write_video(path: Path, *, frames: int) -> Path:
    """A drifting texture of 340×256, the size at which Kinetics is commonly kept."""
    y, x = np.mgrid[:256, :340]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, av.video.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for index in range(frames):
            waves = [
                np.sin(x / 9 + index / 3),
                np.sin(y / 13 - index / 4),
                np.sin((x + 2 * y) / 21 + index / 5),
            ]
            picture = (127.5 + 110 * np.stack(waves, axis=2)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _forward_seconds(predictor: Predictor, pixels: np.ndarray[Any, Any], videos: int) -> float:
    """Seconds a video, from uint8 clips in memory to the last answer."""
    started = time.perf_counter()
    for _ in range(videos):
        for _ in predictor.scores(pixels[t : t + 1] for t in range(len(pixels))):
            pass
    return (time.perf_counter() - started) / videos


def _end_to_end_seconds(predictor: Predictor, video: Path, videos: int) -> float:
    """Seconds a video, from the file to the last answer; one video before, for the decoding process to start."""
    told = []
    for prediction in predictor.predict([video] * (videos + 1)):
        told.append(time.perf_counter())
        assert not prediction.reason, prediction.reason
    return (told[-1] - told[0]) / videos


def _paper_ratios() -> dict[str, dict[str, float]]:
    """Table 5, against all-expensive: GFLOPs recomputed, and the runtime over 100 videos on a TITAN X."""
    costs = {cell.printed.label.split(" (")[0]: cell.exact for cell in table_cells(5)}
    names = {"all-E": "All E", "faster": "FASTER32", "all-C": "All C"}
    return {
        "gflops": {name: costs[label] / costs["All E"] for name, label in names.items()},
        "seconds": {name: PAPER_SECONDS[label] / PAPER_SECONDS["All E"] for name, label in names.items()},
    }


def _print_table(result: dict[str, Any]) -> None:
    options, paper = result["options"], result["paper"]
    print(
        f"{options['clips']} clips of {options['clip_frames']} frames of {options['size']}², "
        f"{options['expensive']} and {options['cheap']}, {options['pattern']}, on {result['device']} "
        f"({result['threads']} threads), {options['repeats']} repeats"
    )
    print(f"{'':<10}{'GFLOPs':>10}{'ratio':>8}", end="")
    for kind in ("forward", "end to end"):
        print(f"{kind + ' s':>14}{'ratio':>8}{'best':>8}", end="")
    print(f"{'paper: GFLOPs':>15}{'time':>8}")
    for name in ("all-E", "faster", "all-C"):
        row = f"{name:<10}{result['gflops_per_video'][name]:>10.1f}{result['gflops_ratio'][name]:>8.3f}"
        for kind in ("forward", "end_to_end"):
            figures = result[kind][name]
            row += f"{figures['seconds_per_video']:>14.3f}"
            row += f"{figures['ratio_to_all_E']:>8.3f}{figures['best_ratio_to_all_E']:>8.3f}"
        print(f"{row}{paper['gflops'][name]:>15.3f}{paper['seconds'][name]:>8.3f}")


if __name__ == "__main__":
    main()
