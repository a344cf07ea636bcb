"""`faster inspect`, `faster convert`, `faster verify`: parse, one call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .inspect import ModelSummary, StoreSummary


@click.command("inspect", short_help="What a store holds, its coverage and failures.")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--videos", type=click.IntRange(1), metavar="N", help="Project the size of N videos from what is there."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def inspect_command(store: Path, videos: int | None, as_json: bool) -> None:
    """Show what STORE holds: videos, splits, models, coverage, failures, sizes and what encoding cost.

    Sizes are those of the files. Where the store has the backbone's classifier, it is asked again on the stored
    maps of a fixed sample of clips, and compared with the scores that the backbone gave. It may be asked while an
    extraction writes the store.

    \b
    Examples:
        faster inspect kinetics.zarr
        faster inspect trial.zarr --videos 240000
    """
    from .inspect import inspect

    summary = inspect(store, videos=videos)
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
    if summary.projected_videos is not None:
        _print_projection(summary)


def _print_model(model: ModelSummary) -> None:
    weights = "RANDOM WEIGHTS" if model.weights_random else f"weights {model.weights_digest[:12]}"
    shape = "×".join(map(str, model.map_shape))
    codec = "" if model.codec == "none" else f" in {model.codec}"
    logits = f"logits of {model.num_classes} classes" if model.num_classes else "no logits"
    click.echo(
        f"  {model.model}, {model.clips} clips of {model.clip_frames} frames, maps {shape} {model.dtype}{codec}, {logits}, "
        f"{model.gflops_per_clip:.4g} GFLOPs a clip, {weights}"
    )
    click.echo(f"    {model.whole} whole, {model.failed} failed, {model.pending} to do; " + _sizes(model))
    if model.quantisation_rms_median is not None:
        click.echo(
            f"    uint8 against float16: relative RMS error {model.quantisation_rms_median:.2%} in the median video, "
            f"{model.quantisation_rms_largest:.2%} in the worst"
        )
    if model.agreement is not None:
        click.echo(
            f"    the classifier on the stored maps: top-1 as the backbone's own in {model.agreement.same_top1} of "
            f"{model.agreement.clips} sampled clips"
        )
    elif model.whole:
        click.echo("    no linear classifier in the store: what encoding cost in top-1 cannot be told")
    for reason, count in list(model.reasons.items())[:5]:
        click.echo(f"    failed {count}: {reason}")
    if len(model.reasons) > 5:
        click.echo(f"    and {len(model.reasons) - 5} more reasons, in failures.jsonl")


def _sizes(model: ModelSummary) -> str:
    if model.compression is None or model.stored_bytes_per_clip is None:
        return f"{model.bytes_per_clip:,} bytes a clip before any compression, nothing stored"
    video_bytes = model.stored_bytes_per_clip * model.clips
    smaller = f", 1/{model.compression:.2f} of plain float16" if model.compression > 1.01 else ""
    return (
        f"{model.stored_bytes_per_clip:,.0f} bytes a clip, {video_bytes / 1e6:.3g} MB a video, "
        f"{model.stored_bytes / 1e6:,.1f} MB stored{smaller}"
    )


def _print_projection(summary: StoreSummary) -> None:
    for model in summary.models:
        size = "not known before one is stored"
        if model.projected_bytes is not None:
            size = f"{model.projected_bytes / 1e9:,.1f} GB"
        click.echo(
            f"  {summary.projected_videos:,} videos of {model.model}, {model.clip_frames} frames: {size}"
        )
    if summary.projected_bytes is not None:
        free = "" if summary.free_bytes is None else f"; {summary.free_bytes / 1e9:,.1f} GB are free there"
        click.echo(f"  together {summary.projected_bytes / 1e9:,.1f} GB{free}")


@click.command("convert", short_help="A store's maps in a smaller encoding, as a new store.")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["float16", "uint8"]),
    default="float16",
    show_default=True,
    help="Of the new maps; uint8 is half the size and loses precision.",
)
@click.option(
    "--codec",
    type=click.Choice(["none", "zstd"]),
    default="none",
    show_default=True,
    help="Of the new maps; zstd is smaller, loses nothing, and is slower to read.",
)
@click.option(
    "--model", "models", multiple=True, metavar="M", help="Convert this model's maps only; may be repeated."
)
@click.option("--processes", type=click.IntRange(1), help="How many convert at once; one a core by default.")
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def convert_command(store: Path, new: Path, as_json: bool, **options: Any) -> None:
    """Write the maps of STORE in another encoding into the store NEW, with its videos, scores and provenance.

    STORE is not changed, and its maps must be float16. Run again, it does only what is not whole yet in NEW, or
    was made again in STORE since.

    \b
    Example:
        faster convert kinetics.zarr small.zarr --dtype uint8 --codec zstd
    """
    from .convert import convert

    done = convert(store, new, **options)
    if as_json:
        click.echo(json.dumps(done.to_dict(), indent=2))
        return
    sizes = (
        f" ({done.read_bytes / 1e6:,.1f} MB before, {done.written_bytes / 1e6:,.1f} MB now)"
        if done.shards
        else ""
    )
    click.echo(f"{new}: {done.shards} shards converted{sizes}, {done.already_whole} were whole already")
    if done.removed:
        click.echo(f"  {done.removed} of them had been made again in {store} since")
    click.echo(f"next: faster inspect {new}")


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
        for name in found.descriptions:
            click.echo(f"  {name} is not what was written")
        if found.leftovers:
            click.echo(f"  {len(found.leftovers)} leftover files of stopped runs, as {found.leftovers[0]}")
        if repair and found.bad:
            click.echo(
                "the bad shards are removed; the command that made them (extract, convert, import) makes them again"
            )
        elif repair and (found.leftovers or found.descriptions):
            click.echo("mended; what was removed, and is still needed, the next faster extract puts again")
        elif found.bad or found.leftovers or found.descriptions:
            click.echo(f"to mend exactly these: faster verify {store} --repair")
    if (found.bad or found.descriptions) and not repair:
        raise click.exceptions.Exit(65)
