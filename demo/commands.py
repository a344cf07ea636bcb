"""The command `faster demo`: the complete pipeline in minutes."""

from __future__ import annotations

import json

import click

from ..terminal.log_output import print_log
from ..terminal.options import AS_JSON
from ..terminal.outputs import output_folder


@click.command("demo")
@click.option(
    "--folder",
    type=click.Path(),
    default="faster-demo",
    show_default=True,
    callback=output_folder,
    help="Where everything goes.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the videos, the backbones and the first of the aggregators.",
)
@AS_JSON
def demo_command(folder: str, seed: int, as_json: bool) -> None:
    """Render videos, train two backbones, extract, train aggregators, evaluate, predict, and report.

    The classes are ordered pairs of short events. Averaging the clips' scores can tell which two events a
    video shows, never their order; a recurrent aggregator can.

    \b
    Example:
        faster demo
    """
    from .events import average_ceiling, chance
    from .run import DemoConfig, demo

    config = DemoConfig.of_seed(seed, folder=folder)
    print_log(err=True)
    result = demo(config)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
        return
    click.echo(result.files.table_text)
    click.echo(
        f"chance is {100 * chance(config.events.events):.1f} %; averaging can reach exactly "
        f"{100 * average_ceiling(config.events.events):.1f} % in expectation, for it cannot see the order"
    )
    best = ", ".join(f"{name} {100 * p:.1f} %" for name, p in result.prediction.top(3))
    click.echo(
        f"{result.prediction.path} (unseen, is {result.label}): {best}; {result.prediction.gflops:.3f} GFLOPs"
    )
    steps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    click.echo(f"{sum(result.seconds.values()):.0f} s: {steps}")
    click.echo(f"plot: {result.files.plot_png}\npage: {result.files.page}")
