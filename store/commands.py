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
    codec = "" if model.codec == "none" else f" in {model.codec}"
    logits = f"logits of {model.num_classes} classes" if model.num_classes else "no logits"
    click.echo(
        f"  {model.model}, {model.clips} clips of {model.clip_frames} frames, maps {shape} {model.dtype}{codec}, {logits}, "
        f"{model.gflops_per_clip:.4g} GFLOPs a clip, {weights}"
    )
    click.echo(
        f"    {model.whole} whole, {model.failed} failed, {model.pending} to do; "
        f"{model.bytes_per_clip:,} bytes a clip, {model.bytes_per_video / 1e6:.3g} MB a video, "
        f"{model.stored_bytes / 1e6:,.1f} MB stored"
    )
    for reason, count in list(model.reasons.items())[:5]:
        click.echo(f"    failed {count}: {reason}")
    if len(model.reasons) > 5:
        click.echo(f"    and {len(model.reasons) - 5} more reasons, in failures.jsonl")


@click.command("verify", short_help="Read every byte of a store against its receipts.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--repair", is_flag=True, help="Remove exactly what does not hold; no extraction may be running."
)
@click.option("--processes", type=click.IntRange(1), help="How many read at once; one a core by default.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def verify_command(store: Path, repair: bool, processes: int | None, as_json: bool) -> None:
    """Read every receipt of STORE and every byte that it speaks of, and name the shards that do not hold.

    Exit code 65 where some do not and were not removed. After --repair, the same faster extract command makes
    the removed shards again.

    \b
    Example:
        faster verify kinetics.zarr --repair
    """
    from .verify import verify

    found = verify(store, repair=repair, processes=processes)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(
            f"{store}: {found.shards} shards, {found.size_bytes / 1e6:,.1f} MB read, {len(found.bad)} bad"
        )
        for shard in found.bad:
            click.echo(f"  {shard.model}, {shard.clip_frames} frames, shard {shard.shard}: {shard.reason}")
        if found.leftovers:
            click.echo(f"  {len(found.leftovers)} leftover files of stopped runs, as {found.leftovers[0]}")
        if repair and (found.bad or found.leftovers):
            click.echo("removed; run the same faster extract command to make the bad shards again")
        elif found.bad or found.leftovers:
            click.echo(f"to remove exactly these: faster verify {store} --repair")
    if found.bad and not repair:
        raise click.exceptions.Exit(65)
