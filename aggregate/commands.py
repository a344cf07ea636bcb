"""`faster train-agg` and `faster evaluate`: parse, one call, print."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..terminal.log_output import print_log
from ..terminal.options import AS_JSON, options_of
from ..terminal.text import counted
from .config import EvaluateOptions, TrainConfig

if TYPE_CHECKING:
    from .all_splits import SplitsResult
    from .evaluation.evaluate import Evaluation


@click.command("train-agg")
@options_of(TrainConfig)
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
    from .train import train_agg

    keep_freed_memory()
    config = TrainConfig(**values)
    speaks = started().is_main
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
@options_of(EvaluateOptions)
@AS_JSON
def evaluate_command(run: str, split: str | None, as_json: bool, **values: Any) -> None:
    """Evaluate a trained RUN: video-level figures, what they cover and cost, and predictions.csv.

    Videos that the run, or a backbone that it uses, was trained on are refused. A RUN of train-agg --split
    all is evaluated split by split, and averaged; --split takes that split's run.

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
