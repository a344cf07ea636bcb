"""The commands `faster export` and `faster import`."""

from __future__ import annotations

import json
from typing import Any

import click

from ..terminal.log_output import print_log
from ..terminal.options import AS_JSON, options_of
from ..terminal.text import counted, sized
from .config import ExportConfig, ImportConfig


@click.command("export")
@options_of(ExportConfig)
@AS_JSON
def export_command(as_json: bool, **options: Any) -> None:
    """Write the maps of STORE for other programs: one HDF5 file, or one .npy a video with its facts as JSON.

    Videos without maps are listed in the output with their reason. Run again, an export to .npy goes on where
    it was; an HDF5 file that is there is refused. Exit code 3 where no video had maps.

    \b
    Examples:
        faster export kinetics.zarr --out kinetics.h5
        faster export thumos.zarr --out features --model r2plus1d50 --pool
    """
    from .export import export

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
@options_of(ImportConfig)
@AS_JSON
def import_command(as_json: bool, **options: Any) -> None:
    """Put features into a store as a model's maps, to train aggregators on.

    SOURCE is a folder of .npy files or an HDF5 file with one array a video: (T, c), (T, h, w, c) or
    (T, l, h, w, c); or what faster export wrote. All of it is checked before anything is written. Labels
    come from --annotations, from an export, from the store that is added to, or from class folders.

    \b
    Examples:
        faster import i3d/ --store ucf.zarr --model i3d --gflops 108 --clip-frames 16 \
--annotations ucfTrainTestlist
        faster import i3d/ --store ucf.zarr --model i3d-rgb --suffix _rgb --gflops 108 --clip-frames 16
        faster import kinetics.h5 --store copy.zarr --model r2plus1d50
    """
    from .import_features import import_features

    print_log(err=True)
    summary = import_features(ImportConfig(**options), progress=not as_json)
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
        return
    click.echo(
        f"{summary.store}: {counted(summary.imported, 'video')} imported as {summary.model}, "
        f"{summary.already_whole:,} already whole, {summary.missing:,} missing, "
        f"{counted(summary.left_out, 'feature')} left out; the last feature is "
        f"repeated in {counted(summary.padded, 'video')}"
    )
    _print_reasons("recorded as failed", summary.absent)
    click.echo(f"next: {summary.next_command}")


def _print_reasons(what: str, reasons: dict[str, int]) -> None:
    for reason, count in list(reasons.items())[:10]:
        click.echo(f"  {what} {count}: {reason}")
    if len(reasons) > 10:
        click.echo(f"  and {counted(len(reasons) - 10, 'more reason')}, listed in the output")
