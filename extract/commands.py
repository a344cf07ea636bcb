"""`faster extract`: it parses, makes one call, and prints."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..runtime.dask_cluster import cluster_options
from ..runtime.signals import interruptible
from ..store.options import encoding_options
from ..terminal.log_output import print_log
from ..terminal.text import counted

if TYPE_CHECKING:
    from .pipeline.events import Event

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def source_options(command: CommandT) -> CommandT:
    """The argument and options that say which videos: shared by the commands that read a source."""
    for option in (
        click.option(
            "--limit", type=click.IntRange(1), help="Take this many videos, spread over the classes."
        ),
        click.option(
            "--allow-missing", is_flag=True, help="Go on without listed videos that are not on disk."
        ),
        click.option(
            "--follow-links", is_flag=True, help="Take what links lead to outside of the folder, too."
        ),
        click.option("--video-root", type=click.Path(), help="Where the videos of an annotation file lie."),
        click.option(
            "--format",
            "annotation_format",
            help="class-folders, kinetics, mmaction, csv, ucf101, hmdb51 or files; told from the files by default.",
        ),
        click.argument("source", nargs=-1, type=click.Path()),
    ):
        command = option(command)
    return command


def share_cores() -> None:
    """Let OpenMP's threads spin for microseconds only while they wait: decoders need the cores. Before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        # Asleep at once, they wake too late for the next of many short operations.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def source_of(source: tuple[str, ...]) -> str | tuple[str, ...] | None:
    """The SOURCE argument as the configuration takes it."""
    return source if len(source) > 1 else (source[0] if source else None)


class FailureLimit(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in newer clicks only
    """How many of so many videos may fail: "5%" or "12", as a function of their number."""

    name = "number or share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the option's text."""
        if not isinstance(value, str):
            return value
        text = value.removesuffix("%")
        try:
            number = float(text) if value.endswith("%") else int(text)
        except ValueError:
            number = -1
        if not 0 <= number < float("inf") or (value.endswith("%") and number > 100):
            self.fail(f"{value!r} is neither a number of videos nor a share such as 5%", param, ctx)
        return (lambda videos: videos * number / 100) if value.endswith("%") else (lambda videos: number)


@click.command("extract")
@source_options
@click.option(
    "--model", "models", multiple=True, required=True, help="A backbone (see: faster models); repeatable."
)
@click.option("--store", type=click.Path(), help="The store to write; named after the folder by default.")
@click.option("--weights", multiple=True, help="A file or URL for each --model, in order [weights/MODEL.*].")
@click.option(
    "--allow-random", is_flag=True, help="Random weights where none are found: smoke tests and timing only."
)
@click.option(
    "--clip-frames", type=click.IntRange(1), help="L, frames a clip; the models' own by default, else 8."
)
@click.option("--clips", type=click.IntRange(1), help="M, clips a video; 256 / clip frames by default.")
@click.option(
    "--size",
    type=click.IntRange(1, 2048),
    help="Pixels of a frame's side; each model's own by default, else 224.",
)
@click.option(
    "--views",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Augmented passes over each video beside the centre view, for training to draw from.",
)
@click.option(
    "--view-seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Of scale, crop, mirroring and time offset of the augmented views.",
)
@encoding_options
@click.option(
    "--every",
    "every_seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Cut files into segments of this many seconds.",
)
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Do the shards again that hold failed videos, after mending their files.",
)
@click.option(
    "--max-failed",
    default="5%",
    show_default=True,
    type=FailureLimit(),
    help="Exit code 3 where more of the source's videos failed: a share or a number.",
)
@click.option(
    "--devices", default=None, help="For example cuda:0,cuda:1; the GPU if there is one, else the CPU."
)
@cluster_options
@click.option(
    "--decoders", type=click.IntRange(1), default=1, show_default=True, help="Decoding processes a device."
)
@click.option(
    "--task",
    metavar="K/N",
    help="Do only the shards whose number leaves K when divided by N; auto in a Slurm array.",
)
@click.option(
    "--batch-clips",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Clips a forward pass; a store keeps to one number.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bf16"]),
    default="auto",
    show_default=True,
    help="What the backbones compute in; auto is bf16 where the device has it in hardware, else float32.",
)
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="Compile the backbones; on a GPU only.",
)
@click.option("--dry-run", is_flag=True, help="Say what it would take on disk, and stop.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print events as JSON, one a line; the last is the summary."
)
def extract_command(
    source: tuple[str, ...],
    devices: str | None,
    max_failed: Callable[[int], float],
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run frozen backbones over every clip of SOURCE and write their maps into a Zarr store.

    SOURCE is a folder of videos (class folders, or with an annotation file in it or beside it), an annotation
    file, or video files; videos/ by default, or the current folder where there is none. Weights are looked for
    in weights/. Run again, it does only what is not whole yet.

    A video that cannot be used is recorded with its reason and left out. Exit code 3 where more failed than
    --max-failed allows; everything else is whole all the same. SIGTERM, SIGUSR1 and SIGUSR2 drop the shard in
    hand and leave with 75: the same command goes on from there.

    \b
    Examples:
        faster extract --model r2plus1d50
        faster extract UCF-101 --model r2plus1d50 --model r2d26 --store ucf.zarr --allow-missing
        faster extract talk.mp4 --model r2d26 --every 10 --allow-random
    """
    share_cores()
    with interruptible("nothing was begun"):
        from .run import ExtractConfig, estimate, extract

        config = ExtractConfig(
            source=source_of(source),
            devices=tuple(devices.split(",")) if devices else None,
            **options,
        )
        print_log(err=True)
        if dry_run:
            would = estimate(config)
            click.echo(json.dumps(would.to_dict(), indent=2) if as_json else would.line)
            return
        summary = extract(
            config,
            on_event=_print_event if as_json else None,
        )
    if as_json:
        from .pipeline.events import rounded

        click.echo(json.dumps({"event": "summary", **rounded(summary.to_dict())}))
    else:
        click.echo("\n".join(summary.lines))
    failed = sum(summary.failed.values())
    if summary.videos and not summary.whole:
        click.echo("no video could be used", err=True)
        raise click.exceptions.Exit(3)
    if failed > max_failed(summary.videos):
        click.echo(
            f"{failed:,} of {counted(summary.videos, 'video')} failed, more than --max-failed allows; all "
            "others are whole",
            err=True,
        )
        raise click.exceptions.Exit(3)


def _print_event(event: Event) -> None:
    from .pipeline.events import event_dict

    click.echo(json.dumps(event_dict(event)))
