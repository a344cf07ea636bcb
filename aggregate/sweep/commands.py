"""`faster sweep`, `faster report` and `faster oracle`: parse, one call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ...runtime.dask_cluster import cluster_options
from ...terminal.log_output import print_log
from ...terminal.outputs import output_file, output_folder
from ...terminal.text import counted
from ..options import AS_JSON, DEVICE, STORE, model_options, training_options

_PARTIAL_FAILURE = 3


def _listed(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    words = tuple(text.replace(",", " ").split())
    if not words:
        raise click.BadParameter("the list is empty; leave the option out for the default")
    return words


def _numbers(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    words = _listed(ctx, parameter, text)
    if words is None:
        return None
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise click.BadParameter(f"{text!r} is not a list of numbers of clips, such as 4,8,16")
    return tuple(int(word) for word in words)


def _page(ctx: click.Context, parameter: click.Parameter, out: str) -> str:
    if Path(out).suffix.lower() not in (".html", ".htm") and not Path(out).is_dir():
        raise click.BadParameter(f"{out!r} is no page; name it .html")
    return output_file(ctx, parameter, out)


@click.command("sweep")
@STORE
@click.option(
    "--aggregators", metavar="A,…", callback=_listed, help="As --aggregator of train-agg.  [the paper's five]"
)
@click.option(
    "--patterns", metavar="E:C,…", callback=_listed, help="[all-E,1:1,1:3,1:7,1:15,1:31, those that can be]"
)
@click.option("--clips", metavar="N,…", callback=_numbers, help="Clips a video.  [all of the store's]")
@click.option("--table", type=click.Choice(["2", "3", "4", "6"]), help="A table of the paper as the grid.")
@click.option("--figure", type=click.Choice(["3"]), help="A figure of the paper as the grid.")
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds a cell, from 0 on."
)
@model_options
@click.option(
    "--clip-frames", type=click.IntRange(min=1), metavar="L", help="Frames a clip.  [each of the store's]"
)
@click.option("--split", metavar="NAME", help="A named split.  [the only one, or the first]")
@click.option(
    "--out",
    metavar="FOLDER",
    callback=output_folder,
    help="The sweep's folder; more grids may go in.  [runs/<store>-sweep]",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that train at once."
)
@click.option(
    "--cache-gib",
    type=click.FloatRange(min=0),
    metavar="G",
    help="For pooled vectors.  [half of free memory]",
)
@cluster_options
@training_options
@DEVICE
@AS_JSON
def sweep_command(
    aggregators: tuple[str, ...] | None,
    patterns: tuple[str, ...] | None,
    clips: tuple[int, ...] | None,
    table: str | None,
    figure: str | None,
    seeds: int,
    expensive: str | None,
    cheap: str | None,
    clip_frames: int | None,
    out: str | None,
    jobs: int,
    cache_gib: float | None,
    cluster: str | None,
    as_json: bool,
    **training: Any,
) -> None:
    """Train and report a whole grid of aggregators, patterns, clips and seeds over one store.

    Cells that read the same batches share one pass over the data, and aggregators on pooled maps train from memory.
    Run again, only what is not finished is done. Ends with 3 where a cell failed.

    \b
    Examples:
      faster sweep --store kinetics.zarr --table 4
      faster sweep --store kinetics.zarr --figure 3 --seeds 5
      faster sweep --store ucf101.zarr --aggregators gru,fast-gru --patterns 1:3,1:7 --clips 8,16
    """
    from ...runtime.allocator import keep_freed_memory
    from ..config import TrainConfig
    from .grid import Grid
    from .run import SweepConfig, run_sweep

    keep_freed_memory()
    grid = Grid(
        aggregators=aggregators,
        patterns=patterns,
        clips=clips,
        clip_frames=clip_frames,
        expensive=expensive,
        cheap=cheap,
        seeds=seeds,
        table=None if table is None else int(table),
        figure=None if figure is None else int(figure),
    )
    config = SweepConfig(
        training=TrainConfig(**training),
        grid=grid,
        out=out,
        jobs=jobs,
        cache_bytes=None if cache_gib is None else int(cache_gib * 2**30),
        cluster=cluster,
    )
    print_log(err=as_json)
    result = run_sweep(config, progress=not as_json)
    if as_json:
        _print_json({"folder": str(result.folder), "cells": list(result.lines)})
    else:
        click.echo(
            f"{counted(len(result.finished), 'cell')} finished, {len(result.failed)} failed, "
            f"{len(result.empty)} empty: "
            f"{result.folder / 'cells.jsonl'}"
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
    """Write one HTML page about runs and sweeps: tables, accuracy against GFLOPs and clips, confusion, coverage.

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
@click.option("--store", metavar="S", help="Another store.  [the run's]")
@click.option("--split", metavar="NAME", help="Another split.  [the run's]")
@click.option("--part", type=click.Choice(["train", "val", "test"]), help="A part of it.  [the run's]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Videos at a time.  [as in the run's own report]"
)
@DEVICE
@AS_JSON
def oracle_command(run_path: str, as_json: bool, **values: Any) -> None:
    """How much could choosing the expensive clips video by video gain? The best choice in hindsight bounds it.

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
