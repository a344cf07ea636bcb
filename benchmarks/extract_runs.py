"""How close a whole `faster extract` comes to its parts: decode alone, forward alone, the obvious loop; and its memory.

python benchmarks/extract_runs.py               about ten minutes on two cores
python benchmarks/extract_runs.py --only memory    one part of: whole, pair, loop, memory, table5
python benchmarks/extract_runs.py --only table5 --videos 100 --decoders 15    the paper's Table 5, on a GPU

Videos of ten seconds, 300 frames of 340×256 pixels in H.264, are made first. Weights are random. Prints tables, and one
JSON line. A GPU is taken where there is one.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import av
import click
import numpy as np
import torch
from faster.extract.backbones import Backbone
from faster.extract.backbones.inference.frozen import FrozenBackbone
from faster.extract.backbones.weights.load import load_weights
from faster.extract.progress import ExtractSummary
from faster.extract.run import ExtractConfig, extract
from faster.extract.video.decode import LoadedVideo, stream_clips
from faster.extract.video.decoder_pool import DecodeJob, DecoderPool
from faster.extract.video.shared_memory import fit_slots
from faster.extract.video.transforms import normalise
from faster.runtime.devices import choose_device
from numpy.typing import NDArray

DEAR, CHEAP, TINY = "r2plus1d50", "r2d26", "r2d14-w4"
CLIP_FRAMES, SIZE = 8, 224
FEW, MANY = 100, 10_000
PARTS = ("whole", "pair", "loop", "memory")
TABLE5_FRAMES, TABLE5_CLIPS = 32, 8  # "32-frames×8-clips setting"


def write_video(path: Path, *, frames: int, width: int, height: int, seed: int) -> None:
    """An H.264 file of a drifting texture with some noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    noise = rng.integers(0, 24, (height, width, 3))
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(frames):
            waves = [np.sin((x + 3 * i) / 15), np.sin((y - 2 * i) / 11), np.sin((x + y + i) / 23)]
            picture = 120 + 90 * np.stack(waves, axis=2) + np.roll(noise, i, axis=1)
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all parts share."""

    videos: Path
    count: int
    clips: int
    turns: int
    decoders: int
    device: str

    @property
    def files(self) -> list[Path]:
        """The videos."""
        return sorted(self.videos.rglob("*.mp4"))


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds that some work took: by the clock, and of all cores, those of its decoders too."""

    wall: float
    cores: float


def timed(work: Callable[[], object]) -> Spent:
    """What it takes. Core seconds say the same on a busy machine, where the clock does not."""
    began, cores = time.perf_counter(), core_seconds()
    work()
    return Spent(wall=time.perf_counter() - began, cores=core_seconds() - cores)


def core_seconds() -> float:
    """Of this process and of those that it started and that ended."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def decode_alone(setting: Setting) -> None:
    """All videos through the pool of decoders, nobody using the pixels."""
    arguments = {"clips": setting.clips, "clip_frames": CLIP_FRAMES, "size": SIZE}
    shape, slots = fit_slots(
        (CLIP_FRAMES, SIZE, SIZE, 3), clips=setting.clips, workers=setting.decoders, batch_clips=8
    )
    jobs = (DecodeJob(key=path, path=path, arguments=arguments, load=stream_clips) for path in setting.files)
    with DecoderPool(setting.decoders, shape=shape, slots=slots) as pool:
        for path, video in pool.run(jobs):
            assert isinstance(video, LoadedVideo), (path, video)


def forward_alone(setting: Setting, network: FrozenBackbone, clips: NDArray[np.uint8]) -> None:
    """As many clips as all videos have through a network."""
    for _ in range(setting.count):
        network(clips)


def whole(setting: Setting, *models: str) -> ExtractSummary:
    """`faster extract` into a new store."""
    with tempfile.TemporaryDirectory(dir=setting.videos.parent) as folder:
        config = ExtractConfig(
            source=str(setting.videos),
            models=models,
            store=f"{folder}/s.zarr",
            allow_random=True,
            clips=setting.clips,
            devices=(setting.device,),
            decoders=setting.decoders,
        )
        return extract(config, progress=False)


def obvious_loop(setting: Setting, backbone: Backbone) -> None:
    """What one would write first: PyAV, the eager network in float32, one clip at a time, np.save."""
    with tempfile.TemporaryDirectory(dir=setting.videos.parent) as folder, torch.no_grad():
        for path in setting.files:
            with av.open(str(path)) as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            height, width = frames[0].shape[:2]
            top, left = (height - SIZE) // 2, (width - SIZE) // 2
            maps = []
            for start in np.arange(setting.clips) * len(frames) // setting.clips:
                clip = np.stack(frames[start : start + CLIP_FRAMES])[:, top : top + SIZE, left : left + SIZE]
                pixels = torch.from_numpy(np.ascontiguousarray(clip)[None]).to(setting.device)
                maps.append(backbone.features(normalise(pixels, backbone.mean, backbone.std)).cpu())
            np.save(f"{folder}/{path.stem}.npy", torch.cat(maps).numpy())


def measure_whole(setting: Setting) -> dict[str, Any]:
    """One model: the run against the time that its parts need of the machine."""
    results = {}
    cores = len(os.sched_getaffinity(0))
    print(
        f"\n## Whole run, {setting.count} videos of {setting.clips} clips, {setting.decoders} decoders, {cores} cores"
    )
    print(
        "| model | decode alone | forward alone | whole run | clock: of its parts | cores: of its parts | bound by |\n"
        "|---|---|---|---|---|---|---|"
    )
    for model in (DEAR, CHEAP):
        network, clips = ready(setting, model)
        turns: list[tuple[Spent, Spent, Spent]] = []
        for _ in range(setting.turns):
            summaries: list[ExtractSummary] = []
            decode = timed(partial(decode_alone, setting))
            forward = timed(partial(forward_alone, setting, network, clips))
            run = timed(lambda: summaries.append(whole(setting, model)))  # noqa: B023 - called at once
            turns.append((decode, forward, Spent(wall=summaries[0].seconds, cores=run.cores)))
        # On a CPU decoders and the forward pass share the cores, which are the busiest resource.
        shared = setting.device == "cpu"
        ratios = [r.wall / (f.wall + d.wall if shared else max(d.wall, f.wall)) for d, f, r in turns]
        of_cores = statistics.median(r.cores / (d.cores + f.cores) for d, f, r in turns)
        seconds = [statistics.median(spent.wall for spent in column) for column in zip(*turns, strict=True)]
        ratio = statistics.median(ratios)
        figures = " | ".join(f"{value:.2f} s" for value in seconds)
        print(
            f"| {model} | {figures} | {ratio:.3f} | {of_cores:.3f} | {summaries[0].bound_by} |",
            flush=True,
        )
        results[model] = {"seconds": seconds, "ratio": ratio, "cores_ratio": of_cores}
    return results


def measure_pair(setting: Setting) -> dict[str, float]:
    """Two models on one decode, against the dearer one's run and the cheaper one's forward pass."""
    network, clips = ready(setting, CHEAP)
    turns = []
    for _ in range(setting.turns):
        dear, both = timed(lambda: whole(setting, DEAR)), timed(lambda: whole(setting, DEAR, CHEAP))
        turns.append((dear, both, timed(partial(forward_alone, setting, network, clips))))
    ratio = statistics.median(both.wall / (dear.wall + cheap.wall) for dear, both, cheap in turns)
    of_cores = statistics.median(both.cores / (dear.cores + cheap.cores) for dear, both, cheap in turns)
    print(
        f"\n## Two models in one pass, of the dearer one's run and the cheaper one's forward pass\n"
        f"clock {ratio:.3f}, cores {of_cores:.3f}"
    )
    return {"ratio": ratio, "cores_ratio": of_cores}


def measure_loop(setting: Setting) -> dict[str, Any]:
    """How many times as fast as the obvious loop."""
    results = {}
    print("\n## Against the obvious loop")
    for model in (DEAR, CHEAP):
        backbone, _ = load_weights(model, allow_random=True)
        loop = timed(partial(obvious_loop, setting, backbone.eval().to(setting.device))).wall
        seconds = whole(setting, model).seconds  # neither counts the loading of weights
        results[model] = {"loop": loop, "whole": seconds, "ratio": loop / seconds}
        print(
            f"{model}: {loop:.1f} s against {seconds:.1f} s, {loop / seconds:.2f} times as fast", flush=True
        )
    return results


def measure_table5(setting: Setting) -> dict[str, Any]:
    """The paper's runtime comparison: seconds for all videos, the backbones' alone and with decoding beside them."""
    half = TABLE5_CLIPS // 2
    networks = {model: ready(setting, model)[0] for model in (DEAR, CHEAP)}
    rows = {
        "all expensive": [(DEAR, TABLE5_CLIPS)],
        "FASTER32, 1:1": [(DEAR, half), (CHEAP, half)],
        "all cheap": [(CHEAP, TABLE5_CLIPS)],
    }
    clip_shape = (TABLE5_FRAMES, SIZE, SIZE, 3)
    arguments = {"clips": TABLE5_CLIPS, "clip_frames": TABLE5_FRAMES, "size": SIZE}
    shape, slots = fit_slots(clip_shape, clips=TABLE5_CLIPS, workers=setting.decoders, memory_bytes=4 << 30)
    clips = next(stream_clips(setting.files[0], **arguments, out=None)).clips

    def use(pixels: NDArray[np.uint8], parts: list[tuple[str, int]]) -> None:
        for model, count in parts:
            networks[model](pixels[:count])

    def decoded(parts: list[tuple[str, int]]) -> None:
        jobs = (DecodeJob(key=path, path=path, arguments=arguments) for path in setting.files)
        with DecoderPool(setting.decoders, shape=shape, slots=slots) as pool:
            for path, video in pool.run(jobs):
                assert isinstance(video, LoadedVideo), (path, video)
                use(video.clips, parts)

    print(
        f"\n## Table 5, {setting.count} videos, {TABLE5_CLIPS} clips of {TABLE5_FRAMES} frames, on {setting.device}"
    )
    print(f"decoding alone, {setting.decoders} decoders: {timed(lambda: decoded([])).wall:.1f} s")
    print("| | backbones alone | with decoding |\n|---|---|---|")
    results = {}
    for name, parts in rows.items():
        use(clips, parts)
        alone = timed(lambda: [use(clips, parts) for _ in range(setting.count)]).wall  # noqa: B023 - called at once
        both = timed(partial(decoded, parts)).wall
        print(f"| {name} | {alone:.1f} s | {both:.1f} s |", flush=True)
        results[name] = {"backbones": alone, "with_decoding": both}
    return results


def measure_memory(folder: Path) -> dict[str, float]:
    """Peak resident memory of the largest process of a run over few and many short videos."""
    originals = folder / "short"
    for i in range(10):
        write_video(originals / f"{i}.mp4", frames=16, width=64, height=48, seed=i)
    peaks = {}
    for count in (FEW, MANY):
        source = folder / f"short {count}"
        for i in range(count):
            link = source / f"{i % 100:02}" / f"{i}.mp4"
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(originals / f"{i % 10}.mp4", link)
        command = [sys.executable, "-m", "faster.cli", "extract", str(source), "--format", "class-folders"]
        command += ["--model", TINY, "--allow-random", "--clips", "2", "--size", "32", "--devices", "cpu"]
        command += ["--store", str(folder / f"{count}.zarr")]
        measuring = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True, capture_output=True)\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        )
        began = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-c", measuring, *command], check=True, capture_output=True, text=True
        )
        peaks[count] = int(ended.stdout) / 1024
        print(
            f"{count:,} short videos: peak {peaks[count]:.1f} MiB, {time.perf_counter() - began:.0f} s",
            flush=True,
        )
    ratio = peaks[MANY] / peaks[FEW]
    print(f"\n## Memory: {MANY:,} videos take {ratio:.3f} of what {FEW} do")
    return {"few_mib": peaks[FEW], "many_mib": peaks[MANY], "ratio": ratio}


def ready(setting: Setting, model: str) -> tuple[FrozenBackbone, NDArray[np.uint8]]:
    """A network as the command makes it, warm, and one video's clips."""
    backbone, _ = load_weights(model, allow_random=True)
    network = FrozenBackbone(backbone, device=setting.device, precision="auto")
    clips = next(
        stream_clips(setting.files[0], clips=setting.clips, clip_frames=CLIP_FRAMES, size=SIZE, out=None)
    ).clips
    network(clips[: network.pass_clips(CLIP_FRAMES, SIZE)])
    return network, clips


def run_all(
    *, only: tuple[str, ...] = PARTS, videos: int = 8, clips: int = 8, turns: int = 3, decoders: int = 1
) -> dict[str, Any]:
    """Measure the parts named; for `benchmarks/extract.py` too."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if set(only) - {"memory"}:
            for i in range(videos):
                write_video(folder / f"videos/{i}.mp4", frames=300, width=340, height=256, seed=i)
        setting = Setting(
            videos=folder / "videos",
            count=videos,
            clips=clips,
            turns=turns,
            decoders=decoders,
            device=str(choose_device(None)),
        )
        if "whole" in only:
            results["whole"] = measure_whole(setting)
        if "pair" in only:
            results["pair"] = measure_pair(setting)
        if "loop" in only:
            results["loop"] = measure_loop(setting)
        if "table5" in only:
            results["table5"] = measure_table5(setting)
        if "memory" in only:
            results["memory"] = measure_memory(folder)
    return results


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice([*PARTS, "table5"]), help="Only this part; repeatable."
)
@click.option("--videos", default=8, show_default=True, help="Videos of ten seconds.")
@click.option("--clips", default=8, show_default=True, help="Clips a video.")
@click.option("--turns", default=3, show_default=True, help="Times that everything is timed.")
@click.option("--decoders", default=1, show_default=True, help="Decoding processes.")
def main(only: tuple[str, ...], **options: int) -> None:
    """Print the tables, and the results as one JSON line."""
    results = run_all(only=only or PARTS, **options)
    print(json.dumps({"threads": torch.get_num_threads(), **results}))


if __name__ == "__main__":
    main()
