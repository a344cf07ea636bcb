"""`faster train-agg` and `faster evaluate`: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .evaluate import Evaluation

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_DEVICE = click.option("--device", metavar="D", help="cpu, cuda:0, …  [the first GPU, or the CPU]")


@click.command("train-agg")
@click.option("--store", required=True, metavar="S", help="A store that faster extract wrote.")
@click.option("--aggregator", default="fast-gru", show_default=True, metavar="A", help="See faster models.")
@click.option("--pattern", metavar="E:C", help='"1:7", "all-E", "all-C".  [1:7; all-E with one model]')
@click.option("--clips", type=click.IntRange(min=1), metavar="N", help="Clips a video.  [all of the store's]")
@click.option("--expensive", metavar="M", help="The expensive model.  [the dearer of two]")
@click.option("--cheap", metavar="M", help="The cheap model.  [the cheaper of two]")
@click.option("--clip-frames", type=click.IntRange(min=1), metavar="L", help="Frames a clip.  [the store's]")
@click.option("--split", metavar="NAME", help="A named split of the store.  [the only one, or the first]")
@click.option(
    "--out", metavar="RUN", help="The run folder.  [runs/<store>-<aggregator>-<pattern>-n<N>-s<seed>]"
)
@click.option("--epochs", type=click.IntRange(min=1), default=30, show_default=True)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Videos a step."
)
@click.option("--learning-rate", type=float, default=0.1, show_default=True)
@click.option("--momentum", type=float, default=0.9, show_default=True)
@click.option("--weight-decay", type=float, default=1e-4, show_default=True)
@click.option("--warmup-epochs", type=float, default=1.0, show_default=True)
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True)
@click.option(
    "--validation-share",
    type=float,
    default=0.15,
    show_default=True,
    help="Share of the train part that chooses the best epoch.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@_DEVICE
@_AS_JSON
def train_agg_command(as_json: bool, **values: Any) -> None:
    """Train an aggregator on a store's maps, and report once on the split's test part.

    Stopped by Ctrl-C or SIGTERM, the same command goes on where it was.

    \b
    Examples:
      faster train-agg --store kinetics.zarr
      faster train-agg --store kinetics.zarr --aggregator gru --pattern 1:3 --clips 8
    """
    from .train import TrainConfig, train_agg

    result = train_agg(
        TrainConfig(**values), say=lambda line: click.echo(line, err=as_json), progress=not as_json
    )
    if as_json:
        best = asdict(result.best) if result.best else None
        _print_json({"run": str(result.run), "best": best, "report": result.report.to_dict()})
    else:
        _print_evaluation(result.report)
        click.echo(f"next: faster evaluate {result.run}  ·  faster predict VIDEO --run {result.run}")


@click.command("evaluate")
@click.argument("run")
@click.option("--store", metavar="S", help="Another store.  [the run's]")
@click.option("--split", metavar="NAME", help="Another split.  [the run's]")
@click.option("--part", type=click.Choice(["train", "val", "test"]), help="A part of it.  [the run's]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Videos a step."
)
@_DEVICE
@_AS_JSON
def evaluate_command(run: str, as_json: bool, **values: Any) -> None:
    """Evaluate a trained RUN: video-level figures, what they cover and cost, and predictions.csv.

    Videos that the run, or a backbone that it uses, was trained on are refused.

    \b
    Examples:
      faster evaluate runs/kinetics-fast-gru-1-7-n32-s0
      faster evaluate runs/kinetics-fast-gru-1-7-n32-s0 --part val --json
    """
    from .evaluate import evaluate
    from .runs import load_run

    evaluation = evaluate(load_run(run), **values)
    if as_json:
        _print_json(evaluation.to_dict())
    else:
        _print_evaluation(evaluation)


def _print_evaluation(evaluation: Evaluation) -> None:
    figures = evaluation.metrics
    click.echo(
        f"{evaluation.part} part of {evaluation.split}: {evaluation.coverage}; {figures.videos} scored"
    )
    click.echo(f"top-1                {figures.top1:8.2%}")
    click.echo(f"top-5                {figures.top5:8.2%}")
    click.echo(f"mean class accuracy  {figures.mean_class_accuracy:8.2%}")
    click.echo(f"GFLOPs a video       {evaluation.gflops_per_video:8.4g}")
    for label, answer, count in evaluation.confused(3):
        click.echo(f"confused             {count:8d}  {label} taken for {answer}")
    for note in evaluation.notes:
        click.echo(f"note: {note}")
    click.echo(f"predictions: {evaluation.predictions}")


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
