"""`faster predict`: raw videos to classes."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("predict", short_help="Classify raw videos with a trained run.")
@click.argument("videos", nargs=-1, required=True, type=click.Path())
@click.option("--run", required=True, type=click.Path(), help="A run folder of faster train-agg.")
@click.option(
    "--weights", multiple=True, metavar="MODEL=FILE", help="Where a backbone's weights are, if they moved."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default="predictions.csv", show_default=True, help="The table."
)
@click.option("--device", help="cpu, cuda:0, …; the first GPU, or the CPU, by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a video.")
def predict_command(
    videos: tuple[str, ...], run: str, weights: tuple[str, ...], out: Path, device: str | None, as_json: bool
) -> None:
    """Classify each of VIDEOS, running on each clip only the backbone that the run's pattern names.

    Prints the best classes with the GFLOPs spent, and writes predictions.csv. Exit code 3 where a video
    could not be classified.

    \b
    Example:
        faster predict new.mp4 --run runs/kinetics-fast-gru-1-7-n32-s0
    """
    from .predict import Predictor, write_predictions

    pairs = [entry.partition("=") for entry in weights]
    if any(not (model and file) for model, _, file in pairs):
        raise click.UsageError("--weights takes MODEL=FILE, for example r2d26=weights/r2d26.safetensors")
    folders = [video for video in videos if Path(video).is_dir()]
    if folders:
        raise click.UsageError(
            f"{folders[0]} is a folder; give its video files, for example {folders[0]}/*.mp4"
        )
    predictor = Predictor(run, weights={model: file for model, _, file in pairs}, device=device)
    done = []
    for prediction in predictor.predict(videos):
        done.append(prediction)
        if as_json:
            click.echo(json.dumps(prediction.to_dict(), ensure_ascii=False))
        elif prediction.reason:
            click.echo(f"{prediction.path}: failed: {prediction.reason}")
        else:
            best = ", ".join(f"{name} {100 * p:.1f} %" for name, p in prediction.top())
            clips = " + ".join(f"{count} {model}" for model, count in prediction.clips_of.items())
            click.echo(f"{prediction.path}: {best}  ({prediction.gflops:.4g} GFLOPs: {clips} clips)")
    failed = sum(bool(prediction.reason) for prediction in done)
    if failed < len(done):  # an earlier table is not given up for nothing
        write_predictions(out, done)
    if not as_json:
        where = f"predictions: {out}" if failed < len(done) else "no predictions"
        click.echo(where + (f"; {failed} of {len(done)} videos failed" if failed else ""))
    if failed:
        raise click.exceptions.Exit(3)
