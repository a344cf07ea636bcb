"""`faster extract`: parse the options, make one call, and print."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..runtime.signals import interruptible
from ..terminal.log_output import print_log
from ..terminal.options import options_of
from ..terminal.text import counted
from .config import ExtractConfig

if TYPE_CHECKING:
    from .pipeline.events import Event


def share_cores() -> None:
    """Limit the time that OpenMP's waiting threads spin: decoders need the cores.

    Call it before torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        # Without any spinning, threads wake too late for the next of many short operations.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class FailureLimit(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in newer clicks only
    """How many videos may fail: "5%" or "12", as a function of the number of videos."""

    name = "number or share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the option's text."""
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
@options_of(ExtractConfig)
@click.option(
    "--max-failed",
    default="5%",
    show_default=True,
    type=FailureLimit(),
    help="Exit code 3 where more of the source's videos failed: a share or a number.",
)
@click.option("--dry-run", is_flag=True, help="Say what it would take on disk, and stop.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print events as JSON, one a line; the last is the summary."
)
def extract_command(max_failed: Callable[[int], float], dry_run: bool, as_json: bool, **options: Any) -> None:
    """Run frozen backbones over every clip of SOURCE and write their maps into a Zarr store.

    SOURCE is a folder of videos (class folders, or with an annotation file in it or beside it), an annotation
    file, or video files; videos/ by default, or the current folder where there is none. Weights are looked
    for in weights/. Run again, it does only what is not whole yet.

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
        from .run import estimate, extract

        config = ExtractConfig(**options)
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
