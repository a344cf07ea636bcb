"""`faster train-backbone`: it parses, makes one call, and prints."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from ...runtime.signals import interruptible
from ...terminal.log_output import print_log
from ...terminal.text import counted
from ..commands import share_cores, source_of, source_options

if TYPE_CHECKING:
    from .config import TrainBackboneConfig, TrainBackboneResult


@click.command("train-backbone")
@source_options
@click.option(
    "--model", required=True, help="A backbone (see: faster models), for example r2d26 or r2plus1d26-w16."
)
@click.option("--split", help="Named split whose train part is trained on; the first by default.")
@click.option("--out", type=click.Path(), default="weights", show_default=True, help="Folder of the weights.")
@click.option(
    "--init",
    metavar="RUN",
    help="Start from these weights (a file, URL or run folder), with a new classifier for other classes.",
)
@click.option(
    "--freeze",
    multiple=True,
    metavar="PART",
    help="Keep a part as --init has it: conv1, res2, …, or features, all but the classifier; repeatable.",
)
@click.option(
    "--folds", type=click.IntRange(2), metavar="K", help="Part the training list's groups into K folds, …"
)
@click.option(
    "--fold",
    type=click.IntRange(0),
    metavar="k",
    help="… and leave out fold k, from 0; its videos stay unseen.",
)
@click.option("--clip-frames", type=click.IntRange(1), default=8, show_default=True, help="L, frames a clip.")
@click.option(
    "--size", type=click.IntRange(1, 2048), default=224, show_default=True, help="Pixels of a frame's side."
)
@click.option(
    "--epochs", type=click.IntRange(1), default=45, show_default=True, help="Each takes one clip a video."
)
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    default=16,
    show_default=True,
    help="Clips a step, of all processes together.",
)
@click.option("--learning-rate", type=float, default=0.05, show_default=True, help="At the end of warm-up.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Of SGD.")
@click.option(
    "--weight-decay", type=float, default=1e-4, show_default=True, help="Of weights, not biases and norms."
)
@click.option(
    "--warmup-epochs", type=float, help="Linear rise before the cosine.  [2; half of the epochs where fewer]"
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of a label that all classes get alike.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16"]),
    default="float32",
    show_default=True,
    help="Of the training steps; weights, norms and validation are float32.",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    metavar="EPOCHS",
    help="Stop after so many epochs without a better one.",
)
@click.option(
    "--validation-share",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of the train part that chooses the best epoch; 0: train on all, keep the last.",
)
@click.option(
    "--validation-clips",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="N, uniform clips of a validation or test video.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of weights, order, views, folds and validation share.",
)
@click.option("--device", help="The GPU if there is one, else the CPU; under torchrun each its own.")
@click.option(
    "--cache",
    type=click.Choice(["uint8"]),
    help="Decode each video once, into files that this and other runs read from.",
)
@click.option("--cache-folder", type=click.Path(), help="Where they lie.  [cache/ in --out]")
@click.option("--decoders", type=click.IntRange(1), default=1, show_default=True, help="Decoding processes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train_backbone_command(source: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Train a backbone on SOURCE and write weights/MODEL.safetensors, where extract finds it.

    The paper's stage one (§4): one random clip of each video an epoch, random scale, crop and flip, SGD with a
    cosine schedule; the best epoch is chosen on a share of the train part. Run again, it goes on where it was
    stopped.

    \b
    Examples:
        faster train-backbone UCF-101 --model r2d26 --split split1 --size 112 --allow-missing
        faster train-backbone UCF-101 --model r2d26 --precision bf16 --cache uint8 --folds 2 --fold 0 --out half0
        faster train-backbone UCF-101 --model r2d26 --init kinetics/r2d26.run --freeze conv1 --freeze res2
        torchrun --nproc-per-node 4 -m faster.cli train-backbone kinetics --model r2plus1d50
    """
    share_cores()
    with interruptible("nothing was begun"):
        from ...runtime.allocator import keep_freed_memory
        from ...training.distributed import started
        from .config import TrainBackboneConfig
        from .train import train_backbone

        keep_freed_memory()
        config = TrainBackboneConfig(source=source_of(source), **options)
        print_log(err=True)
        result = train_backbone(config, progress=not as_json)
    if not started().first:
        return
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        _print(config, result)


def _print(config: TrainBackboneConfig, result: TrainBackboneResult) -> None:
    figures = (("validation", result.validation_top1), ("test", result.test_top1))
    tops = ", ".join(f"{name} {100 * top1:.1f} %" for name, top1 in figures if top1 is not None)
    unseen = f", {result.unseen} of fold {config.fold} unseen" if result.unseen else ""
    click.echo(
        f"{result.weights}: {'best' if config.validation_share else 'last'} epoch {result.best_epoch}, "
        f"{f'video top-1: {tops}; ' if tops else ''}trained on {counted(result.trained_on, 'video')}{unseen}"
    )
    settings = [
        word
        for name, usual in (("size", 224), ("clip_frames", 8))
        if (value := getattr(config, name)) != usual
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    weights = [] if config.out == "weights" else ["--weights", result.weights]
    given = [config.source] if isinstance(config.source, str) else list(config.source or ())
    flags = {"--allow-missing": config.allow_missing, "--follow-links": config.follow_links}
    words = [*given, *(flag for flag, is_set in flags.items() if is_set), "--model", config.model]
    click.echo(f"next: faster extract {shlex.join([*words, *settings, *weights])}")
