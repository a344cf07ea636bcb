"""`faster train-agg` and `faster evaluate`: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..terminal.log_output import print_log
from ..terminal.outputs import output_folder
from ..terminal.text import counted
from .options import AS_JSON, DEVICE, STORE, model_options, training_options

if TYPE_CHECKING:
    from .all_splits import SplitsResult
    from .evaluation.evaluate import Evaluation


@click.command("train-agg")
@STORE
@click.option(
    "--aggregator",
    default="fast-gru",
    show_default=True,
    metavar="A",
    help="See faster models; or package.module:Class of your own.",
)
@click.option(
    "--pattern",
    metavar="E:C",
    help='"1:7", "all-E", "all-C"; "any": one aggregator for all of them.  [1:7; all-E with one model]',
)
@click.option("--clips", type=click.IntRange(min=1), metavar="N", help="Clips a video.  [all of the store's]")
@model_options
@click.option("--clip-frames", type=click.IntRange(min=1), metavar="L", help="Frames a clip.  [the store's]")
@click.option(
    "--split",
    metavar="NAME",
    help='A named split, or "all": each of them, and the mean.  [the only one, or the first]',
)
@click.option(
    "--out",
    metavar="RUN",
    callback=output_folder,
    help="The run folder.  [runs/<store>-<aggregator>-<pattern>-n<N>-s<seed>]",
)
@click.option(
    "--init", metavar="RUN", help="Start from this run's aggregator, with a new classifier for other classes."
)
@training_options
@click.option(
    "--momentum", type=float, default=0.9, show_default=True, help="Of SGD; AdamW's first coefficient."
)
@click.option(
    "--warmup-epochs",
    type=float,
    default=1.0,
    show_default=True,
    help="Epochs of linear rise, before the cosine.",
)
@click.option(
    "--max-gradient-norm",
    type=float,
    default=10.0,
    show_default=True,
    help="Longer gradients are scaled down to it.",
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="Share of a label that all classes get alike.",
)
@click.option(
    "--balance-classes", is_flag=True, help="Every class weighs the same, however many videos it has."
)
@click.option(
    "--validation-share",
    type=float,
    default=0.15,
    show_default=True,
    help="Share of the train part that chooses the best epoch.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="Decides weights, order, clips and validation share.",
)
@DEVICE
@AS_JSON
def train_agg_command(as_json: bool, **values: Any) -> None:
    """Train an aggregator on a store's maps, and report once on the split's test part.

    Stopped by Ctrl-C or SIGTERM, the same command goes on where it was.

    \b
    Examples:
      faster train-agg --store kinetics.zarr
      faster train-agg --store kinetics.zarr --aggregator gru --pattern 1:3 --clips 8
      faster train-agg --store ucf101.zarr --init runs/kinetics-fast-gru-1-7-n32-s0 --split all
      torchrun --nproc-per-node 4 -m faster.cli train-agg --store kinetics.zarr
    """
    from ..runtime.allocator import keep_freed_memory
    from ..training.distributed import started
    from .all_splits import ALL, train_splits
    from .config import TrainConfig
    from .train import train_agg

    keep_freed_memory()
    config = TrainConfig(**values)
    speaks = started().first
    print_log(err=as_json)
    if config.split == ALL:
        result = train_splits(config, progress=not as_json)
        if speaks:
            _print_splits(result, as_json)
        return
    trained = train_agg(config, progress=not as_json)
    if not speaks:
        return
    if as_json:
        best = asdict(trained.best) if trained.best else None
        _print_json({"run": str(trained.run), "best": best, "report": trained.report.to_dict()})
    else:
        _print_evaluation(trained.report)
        click.echo(f"next: faster evaluate {trained.run}  ·  faster predict VIDEO --run {trained.run}")


@click.command("evaluate")
@click.argument("run")
@click.option("--store", metavar="S", help="Another store.  [the run's]")
@click.option(
    "--split", metavar="NAME", help="Another split; of a run on all splits, that split's run.  [the run's]"
)
@click.option("--part", type=click.Choice(["train", "val", "test"]), help="A part of it.  [the run's]")
@click.option("--pattern", metavar="E:C", help="Another pattern than the run's.")
@click.option("--clips", type=click.IntRange(min=1), metavar="N", help="Another number of clips.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Videos at a time.  [as in the run's own report]"
)
@DEVICE
@AS_JSON
def evaluate_command(run: str, split: str | None, as_json: bool, **values: Any) -> None:
    """Evaluate a trained RUN: video-level figures, what they cover and cost, and predictions.csv.

    Videos that the run, or a backbone that it uses, was trained on are refused. A RUN of train-agg --split all
    is evaluated split by split, and averaged.

    \b
    Examples:
      faster evaluate runs/kinetics-fast-gru-1-7-n32-s0
      faster evaluate runs/kinetics-fast-gru-1-7-n32-s0 --part val --json
      faster evaluate runs/ucf101-fast-gru-1-7-n32-s0-all --part val
    """
    from .all_splits import ALL, evaluate_splits, is_splits_folder, run_of_split
    from .evaluation.evaluate import evaluate
    from .runs import load_run

    every = is_splits_folder(run)
    if split == ALL or (every and split is None):
        _print_splits(evaluate_splits(run, **values), as_json)
        return
    path = run_of_split(run, split) if every and split else run
    evaluation = evaluate(load_run(path), split=split, **values)
    if as_json:
        _print_json(evaluation.to_dict())
    else:
        _print_evaluation(evaluation)


_FIGURES = {
    "top-1": "top1",
    "top-5": "top5",
    "mean class accuracy": "mean_class_accuracy",
    "macro-F1": "macro_f1",
    "calibration error": "calibration_error",
}


def _print_evaluation(evaluation: Evaluation) -> None:
    figures = asdict(evaluation.metrics)
    click.echo(
        f"{evaluation.part} part of {evaluation.split}: {evaluation.coverage}; {figures['videos']} scored"
    )
    for title, name in _FIGURES.items():
        click.echo(f"{title:20} {figures[name]:8.2%}")
    click.echo(f"GFLOPs a video       {evaluation.gflops_per_video:8.4g}")
    for label, answer, count in evaluation.confused(3):
        click.echo(f"confused             {count:8d}  {label} taken for {answer}")
    for note in evaluation.notes:
        click.echo(f"note: {note}")
    if evaluation.predictions is not None:
        click.echo(f"predictions: {evaluation.predictions}")


def _print_splits(result: SplitsResult, as_json: bool) -> None:
    if as_json:
        _print_json(result.to_dict())
        return
    mean, error = result.mean, result.standard_error
    for title, name in _FIGURES.items():
        each = ", ".join(
            f"{split} {asdict(report.metrics)[name]:.2%}" for split, report in result.reports.items()
        )
        spread = error[name]
        shown = f"{mean[name]:8.2%}" + ("" if spread is None else f" ± {spread:.2%}")
        click.echo(f"{title:20} {shown}  ({each})")
    click.echo(f"GFLOPs a video       {mean['gflops_per_video']:8.4g}")
    for note in sorted({note for report in result.reports.values() for note in report.notes}):
        click.echo(f"note: {note}")
    click.echo(
        f"mean ± standard error of {counted(len(result.reports), 'split')}: {result.folder / 'result.json'}"
    )


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))
