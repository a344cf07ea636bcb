"""The commands `faster inspect`, `faster convert` and `faster verify`: parse, call, print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import one_line
from ..runtime.dask_cluster import cluster_options
from ..terminal.options import AS_JSON, options_of
from ..terminal.text import counted, sized
from .options import EncodingOptions

if TYPE_CHECKING:
    from .maintain.inspect import ModelSummary, StoreSummary
    from .maintain.remake import Makers
    from .maintain.verify import Verification


@click.command("inspect")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--videos", type=click.IntRange(1), metavar="N", help="Project the size of N videos from what is there."
)
@AS_JSON
def inspect_command(store: Path, videos: int | None, as_json: bool) -> None:
    """Show what STORE holds: videos, splits, models, coverage, failures, sizes and what encoding cost.

    Sizes are those of the files. Where the store has the backbone's classifier, it is asked again on the
    stored maps of a fixed sample of clips, and compared with the scores that the backbone gave. It may be
    asked while an extraction writes the store.

    \b
    Examples:
        faster inspect kinetics.zarr
        faster inspect trial.zarr --videos 240000
    """
    from .maintain.inspect import inspect

    summary = inspect(store, videos=videos)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
        return
    click.echo(
        f"{summary.path}: {counted(summary.videos, 'video')}, {summary.labelled:,} labelled, "
        f"{summary.classes:,} {'class' if summary.classes == 1 else 'classes'}"
    )
    if summary.missing:
        click.echo(f"  listed and not on disk: {summary.missing:,} more")
    for name, subsets in summary.splits.items():
        click.echo(
            f"  split {name}: " + ", ".join(f"{count} {subset}" for subset, count in subsets.items() if count)
        )
    for model in summary.models:
        _print_model(model)
    if summary.projected_videos is not None:
        _print_projection(summary, summary.projected_videos)
    if summary.models and not summary.labelled:
        first = summary.models[0].model
        click.echo(
            "no labels, so nothing to train on; lists add them, without running a backbone again: "
            f"faster export {shlex.quote(summary.path)} --out maps.h5, then "
            f"faster import maps.h5 --store labelled.zarr --model {shlex.quote(first)} "
            f"--annotations LISTS{', once for each model' if len(summary.models) > 1 else ''}"
        )


def _print_fix(store: Path, found: Verification) -> None:
    if found.repaired:
        click.echo("the bad shards are removed" if found.bad else "mended")
    else:
        click.echo(f"to mend exactly these: faster verify {shlex.quote(str(store))} --repair")
    if found.remake:
        click.echo(
            f"{'next' if found.repaired else 'then'}, to make them again (with any option that the store "
            "does not know, as --limit, --format or --annotations, or an annotation file as the source):"
        )
    for command in found.remake:
        click.echo(f"  {one_line(command)}")


def _print_model(model: ModelSummary) -> None:
    weights = "RANDOM WEIGHTS" if model.weights_random else f"weights {model.weights_digest[:12]}"
    shape = "×".join(map(str, model.map_shape))
    codec = "" if model.codec == "none" else f" in {model.codec}"
    logits = (
        f"logits of {counted(model.num_classes, 'class', 'classes')}" if model.num_classes else "no logits"
    )
    click.echo(
        f"  {model.model}, {counted(model.clips, 'clip')} of {counted(model.clip_frames, 'frame')}, "
        f"maps {shape} {model.dtype}{codec}, {logits}, {model.gflops_per_clip:.4g} GFLOPs a clip, {weights}"
    )
    click.echo(
        f"    {model.whole:,} whole, {model.failed:,} failed, {model.pending:,} to do; " + _sizes(model)
    )
    if model.quantisation_rms_median is not None:
        click.echo(
            f"    uint8 against float16: relative RMS error {model.quantisation_rms_median:.2%} in the "
            f"median video, {model.quantisation_rms_largest:.2%} in the worst"
        )
    if model.agreement is not None:
        click.echo(
            "    the classifier on the stored maps: top-1 as the backbone's own in "
            f"{model.agreement.same_top1} of {counted(model.agreement.clips, 'sampled clip')}"
        )
    elif model.whole and model.dtype == "uint8":
        click.echo("    no linear classifier in the store: what encoding cost in top-1 cannot be told")
    for reason, count in list(model.reasons.items())[:5]:
        click.echo(f"    failed {count}: {reason}")
    if len(model.reasons) > 5:
        click.echo(f"    and {len(model.reasons) - 5} more reasons, in failures.jsonl")


def _sizes(model: ModelSummary) -> str:
    if (
        model.compression is None
        or model.stored_bytes_per_clip is None
        or model.stored_bytes_per_video is None
    ):
        return f"maps of {model.bytes_per_clip:,} bytes a clip before any compression, nothing stored"
    smaller = f" (1/{model.compression:.2f} of plain float16)" if model.compression > 1.01 else ""
    return (
        f"maps of {model.stored_bytes_per_clip:,.0f} bytes a clip{smaller}; "
        f"{'with logits ' if model.num_classes else ''}{sized(model.stored_bytes_per_video)} a video"
        f"{' and view' if model.views > 1 else ''}, "
        f"{sized(model.stored_bytes + model.logits_bytes)} in all"
    )


def _print_projection(summary: StoreSummary, videos: int) -> None:
    for model in summary.models:
        size = "not known before one is stored"
        if model.projected_bytes is not None:
            size = sized(model.projected_bytes)
        click.echo(
            f"  {counted(videos, 'video')} of {model.model}, {counted(model.clip_frames, 'frame')}: {size}"
        )
    if summary.projected_bytes is not None:
        free = "" if summary.free_bytes is None else f"; {sized(summary.free_bytes)} are free there"
        click.echo(f"  together {sized(summary.projected_bytes)} of maps, scales, indexes and logits{free}")


@click.command("convert")
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@options_of(EncodingOptions)
@click.option(
    "--model", "models", multiple=True, metavar="M", help="Convert this model's maps only; may be repeated."
)
@click.option("--processes", type=click.IntRange(1), help="How many convert at once; one a core by default.")
@AS_JSON
def convert_command(store: Path, new: Path, as_json: bool, **options: Any) -> None:
    """Write the maps of STORE in another encoding into the store NEW, with its videos, scores and provenance.

    STORE is not changed, and its maps must be float16. Run again, it does only what is not whole yet in NEW,
    or was made again in STORE since.

    \b
    Example:
        faster convert kinetics.zarr small.zarr --dtype uint8 --codec zstd
    """
    from .maintain.convert import convert

    done = convert(store, new, **options)
    if as_json:
        click.echo(json.dumps(done.to_dict(), indent=2))
        return
    sizes = f" ({sized(done.read_bytes)} before, {sized(done.written_bytes)} now)" if done.shards else ""
    click.echo(
        f"{new}: {counted(done.shards, 'shard')} converted{sizes}, {done.already_whole:,} already whole"
    )
    if done.removed:
        click.echo(f"  of them again, as {store} has them anew: {done.removed:,}")
    click.echo(f"next: faster inspect {shlex.quote(str(new))}")


@click.command("verify")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--repair", is_flag=True, help="Remove exactly what does not hold; no extraction may be running."
)
@click.option("--processes", type=click.IntRange(1), help="How many read at once; one a core by default.")
@cluster_options
@AS_JSON
@click.pass_obj
def verify_command(
    makers: Callable[[], Makers] | None,
    store: Path,
    repair: bool,
    processes: int | None,
    cluster: str | None,
    as_json: bool,
) -> None:
    """Read every receipt of STORE and every byte that it speaks of, and name the shards that do not hold.

    Exit code 65 where some do not and were not removed. It says which command makes the removed shards again.

    \b
    Example:
        faster verify kinetics.zarr --repair
    """
    from .maintain.verify import verify

    found = verify(
        store,
        repair=repair,
        processes=processes,
        cluster=cluster,
        makers=None if makers is None else makers(),
    )
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(
            f"{store}: {counted(found.shards, 'shard')}, {sized(found.size_bytes)} read, "
            f"{len(found.bad):,} bad"
        )
        for shard in found.bad:
            view = f", view {shard.view}" if shard.view else ""
            click.echo(
                f"  {shard.model}, {counted(shard.clip_frames, 'frame')}, shard {shard.shard}{view}: "
                f"{shard.reason}"
            )
        for name in found.descriptions:
            click.echo(f"  {name} is not what was written")
        if found.leftovers:
            files = counted(len(found.leftovers), "leftover file")
            click.echo(f"  {files} of stopped runs, as {found.leftovers[0]}")
        if found.bad or found.leftovers or found.descriptions:
            _print_fix(store, found)
    if (found.bad or found.descriptions) and not repair:
        raise click.exceptions.Exit(65)
