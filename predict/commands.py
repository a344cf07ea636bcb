"""`faster predict` and `faster export-model`: classify raw videos, and export the aggregator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..terminal.options import AS_JSON, options_of
from ..terminal.outputs import output_file, output_folder
from ..terminal.text import agreeing, counted
from .options import PredictOptions

if TYPE_CHECKING:
    from .results import Prediction


@click.command("predict")
@click.argument("videos", nargs=-1, required=True, type=click.Path())
@click.option("--run", required=True, type=click.Path(), help="A run folder of faster train-agg.")
@click.option(
    "--weights", multiple=True, metavar="MODEL=FILE", help="Where a backbone's weights are, if they moved."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="predictions.csv",
    show_default=True,
    callback=output_file,
    help="The table.",
)
@options_of(PredictOptions)
@click.option("--stream", is_flag=True, help="Print one JSON object a clip: the answer so far and its cost.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a video.")
def predict_command(
    videos: tuple[str, ...],
    run: str,
    weights: tuple[str, ...],
    out: Path,
    stream: bool,
    as_json: bool,
    exit_probability: float | None,
    budget_gflops: float | None,
    **options: Any,
) -> None:
    """Classify each of VIDEOS, running on each clip only the backbone that the run's pattern names.

    A folder means all video files in it. Prints the best classes with the GFLOPs spent, and writes
    predictions.csv. Exit code 3 where a video could not be classified.

    \b
    Examples:
        faster predict new.mp4 --run runs/kinetics-fast-gru-1-7-n32-s0
        faster predict videos/ --run runs/kinetics-fast-gru-1-7-n32-s0 --exit 0.95
        faster predict long.mp4 --run runs/kinetics-fast-gru-1-7-n32-s0 --stream
    """
    from ..runtime.file_names import require_text
    from .clip_stream import list_videos

    require_text(out, "--out")
    pairs = [entry.partition("=") for entry in weights]
    if any(not (model and file) for model, _, file in pairs):
        raise click.UsageError("--weights takes MODEL=FILE, for example r2d26=weights/r2d26.safetensors")
    paths = list_videos(videos)

    from ..runtime.signals import interruptible
    from .predictor import Prediction, Predictor, write_predictions

    files = {model: file for model, _, file in pairs}
    predictor = Predictor(run, weights=files, **options)
    for model in predictor.random_models:
        click.echo(f"note: {model} has random weights: these answers mean nothing", err=True)
    done: list[Prediction] = []
    quiet = as_json or stream  # everything but answers then goes to stderr
    try:
        with interruptible(f"answers so far are in {out}"):
            for answer in predictor.answers(
                paths, exit_probability=exit_probability, budget_gflops=budget_gflops
            ):
                if isinstance(answer, Prediction):
                    done.append(answer)
                    if as_json or (stream and answer.reason):
                        _print_json(answer.to_dict())
                    elif not stream:
                        click.echo(_line(answer))
                elif stream:
                    _print_json(answer.to_dict())
    finally:  # an interrupt in the last of many videos must not lose the others
        failed = sum(bool(prediction.reason) for prediction in done)
        if failed < len(done):  # do not replace an earlier table with nothing
            write_predictions(out, done)
    if exit_probability is not None or budget_gflops is not None:
        click.echo(_saved(done), err=quiet)
    where = f"predictions: {out}" if failed < len(done) else f"no predictions{_older(out)}"
    click.echo(where + (f"; {failed:,} of {counted(len(done), 'video')} failed" if failed else ""), err=quiet)
    if failed:
        raise click.exceptions.Exit(3)


@click.command("export-model")
@click.argument("run", type=click.Path())
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    callback=output_folder,
    help="The folder to write.",
)
@AS_JSON
def export_model_command(run: str, out: Path, as_json: bool) -> None:
    """Write the aggregator of RUN for programs without this package: init, step and readout as .pt2 files.

    model.json beside them says which clips and maps they take, and what the answers stand for. The
    backbones are not in it.

    \b
    Example:
        faster export-model runs/kinetics-fast-gru-1-7-n32-s0 --out exported
    """
    from ..aggregate.export import export_model

    exported = export_model(run, out)
    if as_json:
        _print_json(exported.to_dict())
        return
    for name in exported.files:
        click.echo(f"{exported.folder / name}  {(exported.folder / name).stat().st_size / 1e6:.1f} MB")
    click.echo(f"described in {exported.folder / exported.description}")


def _older(out: Path) -> str:
    return f"; {out} is from an earlier run" if out.exists() else ""


def _line(prediction: Prediction) -> str:
    """Return one video's answer as a line of text."""
    if prediction.reason:
        return f"{prediction.path}: failed: {prediction.reason}"
    best = ", ".join(f"{name} {100 * p:.1f} %" for name, p in prediction.top())
    clips = " + ".join(f"{count} {model}" for model, count in prediction.clips_of.items())
    noun = agreeing(sum(prediction.clips_of.values()), "clip", "clips")
    stopped = f"; {prediction.stopped_by}: {_share(prediction)}" if prediction.stopped_by else ""
    left_out = (
        f"; {counted(prediction.left_out, 'frame')} at the start need pictures from before it and are left "
        "out"
        if prediction.left_out
        else ""
    )
    return f"{prediction.path}: {best}  ({prediction.gflops:.4g} GFLOPs: {clips} {noun}{stopped}{left_out})"


def _share(prediction: Prediction) -> str:
    return (
        f"saved {prediction.saved_gflops:.4g} of {prediction.whole_gflops:.4g} GFLOPs, "
        f"{prediction.saved_clips:,} of {counted(prediction.whole_clips, 'clip')}"
    )


def _saved(predictions: Sequence[Prediction]) -> str:
    """Return a line that says what all videos saved together. Failed ones are left out."""
    complete = [prediction for prediction in predictions if not prediction.reason]
    stopped = sum(bool(prediction.stopped_by) for prediction in complete)
    saved, planned = (
        sum(prediction.saved_gflops for prediction in complete),
        sum(prediction.whole_gflops for prediction in complete),
    )
    clips = sum(prediction.saved_clips for prediction in complete)
    share = f" ({100 * saved / planned:.1f} %)" if planned else ""
    return (
        f"{stopped:,} of {counted(len(complete), 'video')} left early: saved {saved:.4g} of {planned:.4g} "
        f"GFLOPs{share}, {clips:,} of "
        f"{counted(sum(prediction.whole_clips for prediction in complete), 'clip')}"
    )


def _print_json(value: object) -> None:
    click.echo(json.dumps(value))
