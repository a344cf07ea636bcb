"""How fast stage one trains: its step against the plain network in float32, and whole epochs from files and from the cache.

python benchmarks/backbone_train.py                              every core; for a machine that nobody else uses
python benchmarks/backbone_train.py --only steps --threads 1     one core, by its own CPU time; others disturb it less
python benchmarks/backbone_train.py --only epochs --source ucf6/UCF-101 --split split1
python benchmarks/backbone_train.py --device cuda

A step is forward, backward, the clipping of the gradient and the optimiser's step, from uint8 pixels in memory. The
reference is the plain network as PyTorch runs it, in float32; contenders take turns. Epochs are those of
`faster train-backbone` itself, on a source of yours or on videos of 340×256 pixels that are rendered first; "waited" is
the share of an epoch that waited for data. Prints tables, and one JSON line.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import click
import torch
from extract_runs import write_video
from faster.costs.tables import backbone_gflops
from faster.extract.backbones import Backbone, build
from faster.extract.train_backbone.resnet3d_training import train_forward
from faster.extract.train_backbone.train import TrainBackboneConfig, train_backbone
from faster.extract.video.transforms import normalise
from faster.runtime.allocator import keep_freed_memory
from faster.runtime.devices import choose_device
from faster.training.options import TrainingOptions, make_optimizer
from pairs import Ratio, ratio, time_turns
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES, CLASSES = 8, 6
# Network, pixels, clips a step on a CPU and on a GPU.
STEPS = (
    ("r2plus1d26-w16", 112, 16, 128),
    ("r2d14-w16", 112, 16, 128),
    ("r2plus1d50", 224, 2, 32),
    ("r2d26", 224, 4, 64),
)
RENDERED = 48  # videos a class, of two classes


@dataclass(frozen=True, kw_only=True)
class Step:
    """One network's step."""

    model: str
    size: int
    clips: int
    plain_clips_per_second: float
    float32: Ratio
    bf16: Ratio
    bf16_gflops_per_second: float


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Whole epochs after the first."""

    data: str
    precision: str
    videos: int
    seconds: float
    clips_per_second: float
    waited: float
    prepared_seconds: float


def stepper(model: str, precision: str, clips: Tensor, labels: Tensor) -> Callable[[int], None]:
    """A network of its own and a function that takes one step; "plain" is the network as it stands."""
    torch.manual_seed(0)
    device = clips.device
    network: Backbone = build(model, CLASSES).to(device).train()
    options = TrainingOptions(epochs=1, batch_size=len(clips), learning_rate=1e-3, device=str(device))
    optimizer = make_optimizer(network, options)
    bf16 = precision == "bf16"
    fast = train_forward(network, torch.bfloat16 if bf16 else torch.float32)
    assert fast is not None

    def step(turn: int) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            if precision == "plain":
                logits = network(normalise(clips, network.mean, network.std))
            else:
                logits = fast(clips)
            loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        float(loss.item())  # the step has ended, on a GPU too

    return step


def measure_steps(device: torch.device, turns: int, clock: Callable[[], float]) -> list[Step]:
    """Each network's step in float32 and bf16 against the plain one's."""
    found = []
    for model, size, on_cpu, on_gpu in STEPS:
        count = on_cpu if device.type == "cpu" else on_gpu
        clips = torch.randint(0, 256, (count, FRAMES, size, size, 3), dtype=torch.uint8).to(device)
        labels = torch.randint(CLASSES, (count,)).to(device)
        contenders = {name: stepper(model, name, clips, labels) for name in ("plain", "float32", "bf16")}
        seconds = time_turns(contenders, turns=turns, clock=clock)
        median = {name: sorted(each)[turns // 2] for name, each in seconds.items()}
        found.append(
            Step(
                model=model,
                size=size,
                clips=count,
                plain_clips_per_second=count / median["plain"],
                float32=ratio(seconds, "float32", "plain"),
                bf16=ratio(seconds, "bf16", "plain"),
                bf16_gflops_per_second=3 * count * backbone_gflops(model, FRAMES, size) / median["bf16"],
            )
        )
    return found


class _Lines(logging.Handler):
    """What is logged, with the time, and printed."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((time.perf_counter(), record.getMessage()))
        click.echo(f"  {record.getMessage()}", err=True)


def measure_epochs(
    source: str | None, split: str | None, device: torch.device, epochs: int, decoders: int
) -> list[Epochs]:
    """`faster train-backbone` with and without the cache."""
    found = []
    said = _Lines()
    logging.basicConfig(level=logging.INFO, handlers=[said])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if source is None:
            for i in range(2 * RENDERED):
                path = place / "videos" / f"class{i % 2}" / f"{i}.mp4"
                write_video(path, frames=150, width=340, height=256, seed=i)
        for data in ("files", "cache"):
            for precision in ("float32", "bf16"):
                config = TrainBackboneConfig(
                    model="r2plus1d26-w16",
                    source=source or str(place / "videos"),
                    split=split,
                    allow_missing=True,
                    out=str(place / f"{data}-{precision}"),
                    size=112,
                    epochs=epochs,
                    precision=precision,
                    device=str(device),
                    decoders=decoders,
                    cache="uint8" if data == "cache" else None,
                    cache_folder=str(place / "cache") if data == "cache" else None,
                )
                lines_before = len(said.lines)
                result = train_backbone(config, progress=False)
                run = Path(config.out) / "r2plus1d26-w16.run"
                made = [when for when, line in said.lines[lines_before:] if line.startswith("cache: ")]
                began = time.time() - time.perf_counter()  # of perf_counter, as a file's time
                prepared = (run / "config.json").stat().st_mtime - (made[0] + began) if made else 0.0
                lines = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()][1:]
                seconds = sum(line["seconds"] for line in lines) / len(lines)
                steps = max(1, result.trained_on // config.batch_size)
                found.append(
                    Epochs(
                        data=data,
                        precision=precision,
                        videos=result.trained_on,
                        seconds=seconds,
                        clips_per_second=steps * config.batch_size / seconds,
                        waited=sum(line["waited"] * line["seconds"] for line in lines)
                        / (seconds * len(lines)),
                        prepared_seconds=prepared,
                    )
                )
    return found


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(["steps", "epochs"]), help="One of the two.")
@click.option("--threads", type=click.IntRange(1), help="Of the steps; with 1 the clock is its CPU time.")
@click.option("--turns", type=click.IntRange(3), default=9, show_default=True)
@click.option("--device", help="The GPU if there is one, else the CPU.")
@click.option("--source", help="Videos for the epochs, in place of rendered ones.")
@click.option("--split", help="Of the source.")
@click.option("--epochs", type=click.IntRange(2), default=3, show_default=True)
@click.option("--decoders", type=click.IntRange(1), default=1, show_default=True)
def main(
    only: str | None,
    threads: int | None,
    turns: int,
    device: str | None,
    source: str | None,
    split: str | None,
    epochs: int,
    decoders: int,
) -> None:
    """Measure, print, and end with one JSON line."""
    keep_freed_memory()  # as the command does
    chosen = choose_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    result: dict[str, Any] = {"benchmark": "backbone_train", "torch": torch.__version__}
    result |= {
        "device": str(chosen),
        "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(),
    }
    if only != "epochs":
        clock = time.process_time if threads == 1 and chosen.type == "cpu" else time.perf_counter
        steps = measure_steps(chosen, turns, clock)
        result["steps"] = [vars(each) for each in steps]
        print("| step | clips | plain, clips/s | float32 / plain | bf16 / plain | GFLOP/s in bf16 |")
        print("|---|---|---|---|---|---|")
        for each in steps:
            print(
                f"| {each.model}, {each.size}×{each.size} | {each.clips} | {each.plain_clips_per_second:.1f} | "
                f"{each.float32} | {each.bf16} | {each.bf16_gflops_per_second:.0f} |"
            )
    if only != "steps":
        found = measure_epochs(source, split, chosen, epochs, decoders)
        result["epochs"] = [vars(each) for each in found]
        print("| epochs | videos | seconds | clips/s | waited | made in, s |\n|---|---|---|---|---|---|")
        for one in found:
            print(
                f"| {one.data}, {one.precision} | {one.videos} | {one.seconds:.1f} | {one.clips_per_second:.1f} | "
                f"{one.waited:.1%} | {one.prepared_seconds:.1f} |"
            )
    print(json.dumps(result, default=vars))


if __name__ == "__main__":
    main()
