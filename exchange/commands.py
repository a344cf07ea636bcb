"""`faster export` and `faster import`: maps out of a store, and others' features into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..store.options import encoding_options
from ..terminal.log_output import print_log
from ..terminal.outputs import output_folder
from ..terminal.text import counted, sized


def _either(ctx: click.Context, parameter: click.Parameter, out: Path) -> Path:
    """What is there, a file or a folder, is judged by the export; here, whether anything can be written."""
    return output_folder(ctx, parameter, out) if out.is_dir() or not out.exists() else out


@click.command("export")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    callback=_either,
    help="The HDF5 file, or the folder of .npy files.",
)
@click.option("--model", help="Only this model's maps; all by default.")
@click.option("--clip-frames", type=click.IntRange(1), help="Only maps of clips of this many frames.")
@click.option("--pool", is_flag=True, help="Their means over l, h and w: one vector a clip.")
@click.option(
    "--format",
    type=click.Choice(["hdf5", "npy"]),
    help="HDF5 where --out ends in .h5 or .hdf5, else npy, by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def export_command(as_json: bool, **options: Any) -> None:
    """Write the maps of STORE for other programs: one HDF5 file, or one .npy a video with its facts as JSON.

    Videos without maps are listed in the output with their reason. Run again, an export to .npy goes on where
    it was; an HDF5 file that is there is refused. Exit code 3 where no video had maps.

    \b
    Examples:
        faster export kinetics.zarr --out kinetics.h5
        faster export thumos.zarr --out features --model r2plus1d50 --pool
    """
    from .export import ExportConfig, export

    print_log(err=True)
    summary = export(ExportConfig(**options), progress=not as_json)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
    else:
        models = " and ".join(f"{model} at {counted(frames, 'frame')}" for model, frames in summary.models)
        click.echo(
            f"{summary.out}: {counted(summary.exported, 'video')} exported ({sized(summary.size_bytes)}), "
            f"{summary.already_whole:,} already whole; {models}"
        )
        _print_reasons("without maps", summary.absent)
    if not summary.exported + summary.already_whole:
        raise click.exceptions.Exit(3)


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--store",
    required=True,
    type=click.Path(path_type=Path),
    help="The store to write, or to add the model to.",
)
@click.option("--model", required=True, help="A name for what made them; of an export, the model to take.")
@click.option(
    "--gflops", type=float, help="Cost of the backbone on one clip, multiply-adds / 1e9; an export knows it."
)
@click.option(
    "--clip-frames", type=click.IntRange(1), help="L, frames that one feature saw; an export knows it."
)
@click.option(
    "--clips",
    type=click.IntRange(1),
    help="M, features taken of each video; all if every video has as many, else 256 / L.",
)
@click.option(
    "--annotations",
    multiple=True,
    type=click.Path(),
    help="An annotation file, or a folder of them, for labels and splits; repeatable.",
)
@click.option("--format", "annotation_format", help="Of the annotations; told from the files by default.")
@click.option("--allow-missing", is_flag=True, help="Go on without listed videos that have no features.")
@click.option(
    "--suffix",
    metavar="END",
    help="Take the features whose names end so, as _rgb, where a video has several kinds; '' takes each for a video.",
)
@click.option("--channels-first", is_flag=True, help="The arrays are (T, c, h, w) or (T, c, l, h, w).")
@encoding_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def import_command(as_json: bool, **options: Any) -> None:
    """Put features into a store as a model's maps, to train aggregators on.

    SOURCE is a folder of .npy files or an HDF5 file with one array a video: (T, c), (T, h, w, c) or
    (T, l, h, w, c); or what faster export wrote. All of it is checked before anything is written. Labels
    come from --annotations, from an export, from the store that is added to, or from class folders.

    \b
    Examples:
        faster import i3d/ --store ucf.zarr --model i3d --gflops 108 --clip-frames 16 --annotations ucfTrainTestlist
        faster import i3d/ --store ucf.zarr --model i3d-rgb --suffix _rgb --gflops 108 --clip-frames 16
        faster import kinetics.h5 --store copy.zarr --model r2plus1d50
    """
    from .import_features import ImportConfig, import_features

    print_log(err=True)
    summary = import_features(ImportConfig(**options), progress=not as_json)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
        return
    click.echo(
        f"{summary.store}: {counted(summary.imported, 'video')} imported as {summary.model}, {summary.already_whole:,} "
        f"already whole, {summary.missing:,} missing, {counted(summary.left_out, 'feature')} left out; the last feature is "
        f"repeated in {counted(summary.padded, 'video')}"
    )
    _print_reasons("recorded as failed", summary.absent)
    click.echo(f"next: {summary.next_command}")


def _print_reasons(what: str, reasons: dict[str, int]) -> None:
    for reason, count in list(reasons.items())[:10]:
        click.echo(f"  {what} {count}: {reason}")
    if len(reasons) > 10:
        click.echo(f"  and {counted(len(reasons) - 10, 'more reason')}, listed in the output")
