"""`faster status` and `faster submit slurm`: parse the options, make one call, and print."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...terminal.help import HelpfulGroup
from ...terminal.options import options_of
from ...terminal.outputs import output_file
from ...terminal.text import counted
from .slurm import SlurmJob

if TYPE_CHECKING:
    from .status import ModelStatus, Status

_NOT_COMPLETE = 75


@click.command("status")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--script",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The job script of faster submit slurm.  [<store>.sbatch beside the store, where there is one]",
)
@click.option(
    "--watch", type=click.FloatRange(min=1), metavar="S", help="Again every S seconds, until whole."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, each time.")
def status_command(store: Path, script: Path | None, watch: float | None, as_json: bool) -> None:
    """Show how far the extraction into STORE is: shards and videos whole, failed, being written and lacking.

    Works while jobs write, and after they died: it asks the store alone. Ends with 0 where every shard is
    whole, and with 75 where some are not yet. With --watch and a job script it waits for the first job to
    begin the store.

    \b
    Examples:
        faster status kinetics.zarr
        faster status kinetics.zarr --watch 30
    """
    from .status import Watch, begun

    looking = Watch(store)
    while True:
        if watch is not None and _script_of(store, script) is not None and not begun(store):
            click.echo(f"{store}: not begun yet")  # its jobs are still in the queue
            time.sleep(watch)
            continue
        found = looking.look()
        if as_json:
            click.echo(json.dumps(found.to_dict()))
        else:
            _print(found, script)
        if found.complete:
            return
        if watch is None:
            raise click.exceptions.Exit(_NOT_COMPLETE)
        time.sleep(watch)


def _print(status: Status, script: Path | None) -> None:
    for model in status.models:
        click.echo(
            f"{status.store}: {model.model}, {counted(model.clip_frames, 'frame')}: {model.whole:,} of "
            f"{counted(model.shards, 'shard')} whole, "
            f"{model.running} being written; {model.videos_whole:,} of {counted(model.videos, 'video')} "
            f"whole, {model.videos_failed:,} failed"
        )
        if model.lacking:
            click.echo(f"  {_pace(model)}")
    if status.complete:
        return
    from .slurm import tasks_of_script
    from .tasks import array_indices

    script = _script_of(Path(status.store), script)
    if script is None:
        click.echo("next: the faster extract command that began it; it skips what is whole")
    else:
        tasks = tasks_of_script(script)
        click.echo(
            f"next: sbatch --array={array_indices(shard % tasks for shard in status.lacking)} {_word(script)}"
        )


def _script_of(store: Path, named: Path | None) -> Path | None:
    """Return the given job script, or the one next to the store if there is one."""
    if named is not None:
        return named
    beside = store.absolute() if not store.name else store  # for ".", the folder's own name
    beside = beside.with_name(f"{beside.name}.sbatch")
    return beside if beside.is_file() else None


def _word(path: Path) -> str:
    """Quote a path as one word of a shell command that is never taken for an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _pace(model: ModelStatus) -> str:
    if model.shards_per_hour is None:
        return "no rate yet, so the time left is not known" if model.running else "nothing is being written"
    pace = f"{model.shards_per_hour:.3g} shards an hour in the last hour of work"
    if model.seconds_left is None:
        return f"{pace}; nothing is being written"
    hours, minutes = divmod(round(model.seconds_left / 60), 60)
    return f"{pace}; {hours} h {minutes:02} min left"


@click.group("submit", cls=HelpfulGroup)
def submit_group() -> None:
    """Hand an extraction to a cluster's batch system.

    \b
    Example:
        faster submit slurm --tasks 64 -- videos --model r2plus1d50 --store kinetics.zarr
    """


@submit_group.command("slurm", short_help="Write a job script of `faster extract` as an array of tasks.")
@options_of(SlurmJob)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    callback=output_file,
    help="The script.  [<store>.sbatch]",
)
@click.option("--go", is_flag=True, help="Hand it to sbatch; without, it is only written.")
@click.argument("extract_arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- EXTRACT…")
def slurm_command(extract_arguments: tuple[str, ...], out: Path | None, go: bool, **values: Any) -> None:
    """Write a job script that runs `faster extract EXTRACT…` as an array of tasks; with --go, submit it.

    Shards are dealt out by number, so tasks need no word from each other, and any may be run again. A task
    near its time limit drops the shard in hand and is put in the queue again.

    \b
    Examples:
        faster submit slurm --tasks 64 -- videos --model r2plus1d50 --store kinetics.zarr
        faster submit slurm --tasks 64 --at-once 16 --partition gpu --setup "source env/bin/activate" --go \
-- videos \\
            --model r2plus1d50 --model r2d26 --store kinetics.zarr
    """
    from .slurm import submit, write_script

    script = write_script(extract_arguments, out=out, **values)
    click.echo(f"{script.path}: {counted(script.tasks, 'task')}, logs in {script.logs}")
    if go:
        click.echo(submit(script.path))
        click.echo(f"next: faster status {_word(script.store)}")
    else:
        click.echo(f"next: sbatch {_word(script.path)}")
