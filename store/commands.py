"""`faster inspect`: what a store holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .inspect import ModelSummary


@click.command("inspect", short_help="What a store holds, its coverage and failures.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def inspect_command(store: Path, as_json: bool) -> None:
    """Show what STORE holds: videos, splits, models, coverage, failures and sizes.

    It may be asked while an extraction writes the store.

    \b
    Example:
        faster inspect kinetics.zarr
    """
    from .inspect import inspect

    summary = inspect(store)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
        return
    click.echo(
        f"{summary.path}: {summary.videos} videos, {summary.labelled} labelled, {summary.classes} classes"
    )
    if summary.missing:
        click.echo(f"  {summary.missing} more were listed and not on disk")
    for name, parts in summary.splits.items():
        click.echo(
            f"  split {name}: " + ", ".join(f"{count} {part}" for part, count in parts.items() if count)
        )
    for model in summary.models:
        _print_model(model)


def _print_model(model: ModelSummary) -> None:
    weights = "RANDOM WEIGHTS" if model.weights_random else f"weights {model.weights_digest[:12]}"
    shape = "×".join(map(str, model.map_shape))
    logits = f"logits of {model.num_classes} classes" if model.num_classes else "no logits"
    click.echo(
        f"  {model.model}, {model.clips} clips of {model.clip_frames} frames, maps {shape} float16, {logits}, "
        f"{model.gflops_per_clip:.2f} GFLOPs a clip, {weights}"
    )
    click.echo(
        f"    {model.whole} whole, {model.failed} failed, {model.pending} to do; "
        f"{model.bytes_per_clip:,} bytes a clip, {model.bytes_per_video / 1e6:.2f} MB a video, "
        f"{model.stored_bytes / 1e6:,.1f} MB stored"
    )
    for reason, count in list(model.reasons.items())[:5]:
        click.echo(f"    failed {count}: {reason}")
    if len(model.reasons) > 5:
        click.echo(f"    and {len(model.reasons) - 5} more reasons, in failures.jsonl")
