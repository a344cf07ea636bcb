"""`faster sweep`, `faster report` and `faster oracle`: parse, one call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ...terminal.log_output import print_log
from ...terminal.options import AS_JSON, options_of
from ...terminal.outputs import output_file
from ...terminal.settings import settings_of
from ...terminal.text import counted
from ..config import EvaluateOptions, TrainConfig
from .config import Grid, SweepConfig

_PARTIAL_FAILURE = 3
# For a cell's training; the grid settles the rest of TrainConfig, or all cells have its default.
_TRAINING = (
    "epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "dropout", "precision",
    "patience", "skip_scores", "unseen", "device",
)  # fmt: skip


def _page(ctx: click.Context, parameter: click.Parameter, out: str) -> str:
    if Path(out).suffix.lower() not in (".html", ".htm") and not Path(out).is_dir():
        raise click.BadParameter(f"{out!r} is no page; name it .html")
    return output_file(ctx, parameter, out)


@click.command("sweep")
@options_of(TrainConfig, only=["store"])
@options_of(Grid)
@options_of(SweepConfig)
@click.option("--split", metavar="NAME", help="A named split.  [the only one, or the first]")
@options_of(TrainConfig, only=_TRAINING)
@AS_JSON
def sweep_command(as_json: bool, **values: Any) -> None:
    """Train and report a whole grid of aggregators, patterns, clips and seeds over one store.

    Cells that read the same batches share one pass over the data, and aggregators on pooled maps train from
    memory. Run again, only what is not finished is done. Ends with 3 where a cell failed.

    \b
    Examples:
      faster sweep --store kinetics.zarr --table 4
      faster sweep --store kinetics.zarr --figure 3 --seeds 5
      faster sweep --store ucf101.zarr --aggregators gru,fast-gru --patterns 1:3,1:7 --clips 8,16
    """
    from ...runtime.allocator import keep_freed_memory
    from .run import run_sweep

    keep_freed_memory()
    grid = Grid(**{name: values.pop(name) for name in settings_of(Grid)})
    training = TrainConfig(**{name: values.pop(name) for name in ("store", "split", *_TRAINING)})
    config = SweepConfig(training=training, grid=grid, **values)
    print_log(err=as_json)
    result = run_sweep(config, progress=not as_json)
    if as_json:
        _print_json({"folder": str(result.folder), "cells": list(result.lines)})
    else:
        click.echo(
            f"{counted(len(result.finished), 'cell')} finished, {len(result.failed)} failed, "
            f"{len(result.empty)} empty: {result.folder / 'cells.jsonl'}"
        )
        click.echo(f"next: faster report {result.folder}")
    if result.failed:
        raise click.exceptions.Exit(_PARTIAL_FAILURE)


@click.command("report")
@click.argument("paths", metavar="RUN-OR-SWEEP…", nargs=-1, required=True)
@click.option(
    "--out",
    metavar="FILE",
    default="report.html",
    show_default=True,
    callback=_page,
    help="The page; figures lie beside it.",
)
@click.option("--title", metavar="TEXT", help="Of the page.  [the store's name]")
@click.option("--paper", is_flag=True, help="Draw the paper's own Kinetics points behind the rows.")
@AS_JSON
def report_command(paths: tuple[str, ...], out: str, title: str | None, paper: bool, as_json: bool) -> None:
    """Write one HTML page about runs and sweeps: tables, accuracy against GFLOPs and clips, confusion,
    coverage.

    The page needs no network; PNG and SVG figures lie beside it.

    \b
    Examples:
      faster report runs/kinetics-sweep
      faster report runs/ucf101-gru-1-7-n16-s0 runs/ucf101-fast-gru-1-7-n16-s0 --out compared.html
    """
    from ..report.write import write_report

    files = write_report(paths, out=out, title=title, paper=paper)
    figures = [str(path) for path in (files.plot_png, files.plot_svg, *files.further)]
    if as_json:
        _print_json({"page": str(files.page), "figures": figures})
    else:
        click.echo(files.table_text)
        click.echo(f"page: {files.page}")


@click.command("oracle")
@click.option("--run", "run_path", required=True, metavar="RUN", help="A run folder of faster train-agg.")
@options_of(EvaluateOptions, without=["pattern", "clips"])
@AS_JSON
def oracle_command(run_path: str, as_json: bool, **values: Any) -> None:
    """How much could choosing the expensive clips video by video gain? The best choice in hindsight
    bounds it.

    It uses the labels of the videos that it is measured on: a bound for any policy, never a result.

    \b
    Example:
      faster oracle --store ucf101.zarr --run runs/ucf101-fast-gru-1-7-n8-s0
    """
    from ..runs import load_run
    from .oracle import oracle

    result = oracle(load_run(run_path), **values)
    if as_json:
        _print_json(result.to_dict())
        return
    click.echo("uses the test labels: a bound, not a result")
    click.echo(
        f"{counted(result.videos, 'video')} of the {result.part} part of {result.split}; "
        f"{result.expensive_clips} of {result.clips} "
        f"clips expensive, {result.gflops_per_video:.4g} GFLOPs a video whichever they are"
    )
    kind = f"best of all {result.ways}" if result.exhaustive else f"best found, greedy of {result.ways}"
    for name, top1 in (("the run's pattern", result.fixed_top1), (kind, result.best_top1)):
        click.echo(f"{name:32} top-1 {top1:7.2%}")
    if result.mean_top1 is not None:
        click.echo(f"{'mean over all choices':32} top-1 {result.mean_top1:7.2%}")
    click.echo(f"{'regret of the pattern':32}       {result.regret:7.2%}")
    click.echo(
        f"{'loss of the label':32} {result.fixed_loss:.4f} fixed, {result.best_loss:.4f} best, in nats"
    )
    shares = " ".join(f"{share:.0%}" for share in result.chosen_share)
    click.echo(f"chosen, by time: {shares}")
    if not result.exhaustive:
        click.echo("greedy: the best choice may be better still")


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))
