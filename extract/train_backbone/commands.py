"""`faster train-backbone`: parse the options, make one call, and print."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from ...runtime.signals import interruptible
from ...terminal.log_output import print_log
from ...terminal.options import AS_JSON, options_of
from ...terminal.text import counted
from ..commands import share_cores
from .config import TrainBackboneConfig

if TYPE_CHECKING:
    from .config import TrainBackboneResult


@click.command("train-backbone")
@options_of(TrainBackboneConfig)
@AS_JSON
def train_backbone_command(as_json: bool, **options: Any) -> None:
    """Train a backbone on SOURCE and write weights/MODEL.safetensors, where extract finds it.

    The first of the paper's two stages (§4): one random clip of each video an epoch, random scale, crop and
    flip, SGD with a cosine schedule; the best epoch is chosen on a share of the train part. Run again, it
    goes on where it was stopped.

    \b
    Examples:
        faster train-backbone UCF-101 --model r2d26 --split split1 --size 112 --allow-missing
        faster train-backbone UCF-101 --model r2d26 --precision bf16 --cache uint8 --folds 2 --fold 0 \
--out half0
        faster train-backbone UCF-101 --model r2d26 --init kinetics/r2d26.run --freeze conv1 --freeze res2
        torchrun --nproc-per-node 4 -m faster.cli train-backbone kinetics --model r2plus1d50
    """
    share_cores()
    with interruptible("nothing was begun"):
        from ...runtime.allocator import keep_freed_memory
        from ...training.distributed import started
        from .train import train_backbone

        keep_freed_memory()
        config = TrainBackboneConfig(**options)
        print_log(err=True)
        result = train_backbone(config, progress=not as_json)
    if not started().is_main:
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
