"""`faster flops` and `faster models`: parse, ask `costs.tables`, print."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from ..aggregate.report.paper import PRESETS, TABLE_1_NAMES, TABLES, Setting
from ..errors import UsageError
from ..runtime.flop_counter import paper_clips
from ..terminal.options import AS_JSON
from ..terminal.text import counted

if TYPE_CHECKING:
    from .tables import BackboneCost, PaperCell, PatternCost

_OF_A_LIBRARY = ("prefix", "offers", "example", "installed", "install")


@click.command("flops")
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="M",
    help="A backbone; twice: the dearer is the expensive one.",
)
@click.option("--pattern", metavar="E:C", help='Cost of a video: "1:7", "all-E" or "all-C".')
@click.option(
    "--clips", type=click.IntRange(min=1), metavar="N", help="Clips of the video  [256 / clip frames]"
)
@click.option(
    "--clip-frames",
    type=click.IntRange(min=1),
    metavar="L",
    help="Frames of a clip  [the model's own, or 8, 16 and 32; of a video 8]",
)
@click.option("--preset", type=click.Choice(sorted(PRESETS)), help="A setting that the paper names.")
@click.option(
    "--table", type=click.Choice([str(number) for number in TABLES]), help="Recompute a table of the paper."
)
@click.option(
    "--size", type=click.IntRange(min=1), help="Pixels of a frame's side  [each model's own, else 224]"
)
@AS_JSON
def flops_command(
    models: tuple[str, ...],
    pattern: str | None,
    clips: int | None,
    clip_frames: int | None,
    preset: str | None,
    table: str | None,
    size: int | None,
    as_json: bool,
) -> None:
    """GFLOPs of a clip, of a video, or of the paper's tables.

    One multiply-add is one FLOP, as in the paper. Without options: the paper's networks and its two presets.

    \b
    Examples:
      faster flops --model r2plus1d50 --model r2d26
      faster flops --pattern 1:7 --clip-frames 16 --clips 16
      faster flops --preset faster32 --model r3d50 --model r2d26
      faster flops --table 4
    """
    from . import tables as flops

    if table is not None:
        if models or pattern or clips or clip_frames or preset or size:
            raise UsageError("--table takes no other option than --json: its settings are the paper's")
        _print_table(flops.table_cells(int(table)), int(table), as_json)
        return
    if preset is not None and (pattern or clips or clip_frames):
        raise UsageError("--preset sets the pattern, the clips and the clip frames; leave those options out")
    if pattern is None and preset is None and clips is not None:
        raise UsageError("--clips is of a video, whose cost needs a pattern: add --pattern 1:7")

    settings: list[Setting] = []
    costs: list[BackboneCost] = []
    if preset is not None:
        settings = [_with_models(PRESETS[preset], models, size)]
    elif pattern is not None:
        frames = clip_frames or 8
        setting = Setting(pattern=pattern, clip_frames=frames, clips=clips or paper_clips(frames))
        settings = [_with_models(setting, models, size)]
    else:
        costs = [
            flops.backbone_cost(name, frames, size)
            for name in models or TABLE_1_NAMES
            for frames in ((clip_frames,) if clip_frames else flops.usual_clips(name))
        ]
        if not models:
            settings = [replace(setting, size=size or setting.size) for setting in PRESETS.values()]
    _print_costs(costs, [(setting, flops.setting_cost(setting)) for setting in settings], as_json)


@click.command("models")
@AS_JSON
def models_command(as_json: bool) -> None:
    """What --model and --aggregator can name; backbones with their cost for a clip of 8 frames of 224×224.

    \b
    Example:
      faster models --json
    """
    from ..aggregate.models.names import AGGREGATORS
    from ..extract.backbones import LIBRARIES, is_scalable, known_names
    from .tables import backbone_cost

    rows = [(backbone_cost(name, 8), is_scalable(name)) for name in known_names()]
    if as_json:
        click.echo(
            json.dumps(
                {
                    "models": [{**asdict(cost), "scalable": scalable} for cost, scalable in rows],
                    "libraries": [
                        {name: getattr(library, name) for name in _OF_A_LIBRARY}
                        for library in LIBRARIES.values()
                    ],
                    "aggregators": list(AGGREGATORS),
                }
            )
        )
        return
    click.echo(f"{'model':<14}{'parameters':>12}{'GFLOPs':>10}  map (l, h, w, c)")
    for cost, scalable in rows:
        name = cost.model + (" *" if scalable else "")
        click.echo(f"{name:<14}{cost.parameters / 1e6:>10.2f} M{cost.gflops:>10.2f}  {cost.map_shape}")
    click.echo("Parameters without a classifier. GFLOPs: one multiply-add is one.")
    click.echo(
        "* also narrower or wider: r2d26-w16 has a stem of 16 channels instead of 64, and all others scale."
    )
    click.echo("\nnetworks of other libraries, whose cost `faster flops --model NAME` counts:")
    for library in LIBRARIES.values():
        missing = "" if library.installed else f"; to install: {library.install}"
        click.echo(f"  {library.example:<46}{library.offers}{missing}")
    click.echo("Your own network: --model package.module:function")
    click.echo(f"\naggregators: {', '.join(AGGREGATORS)}")
    click.echo("Your own aggregator: --aggregator package.module:Class")


def _with_models(setting: Setting, models: tuple[str, ...], size: int | None) -> Setting:
    """Return the setting with the user's models: two, or one for both roles."""
    from ..aggregate.data.pattern import Pattern
    from .tables import order_by_cost

    if models or size:
        setting = replace(setting, size=size)
    if len(models) > 2:
        raise UsageError(f"a pattern mixes two models, {len(models)} are given: {', '.join(models)}")
    if not models:
        return setting
    pattern = Pattern.parse(setting.pattern)
    if len(models) == 1 and pattern.expensive and pattern.cheap:
        raise UsageError(
            f"pattern {setting.pattern} mixes two models; name both, as --model r2plus1d50 --model r2d26"
        )
    ordered = order_by_cost(models, setting.clip_frames, size)
    return replace(setting, expensive=ordered[0], cheap=ordered[-1])


def _print_costs(costs: list[BackboneCost], videos: list[tuple[Setting, PatternCost]], as_json: bool) -> None:
    if as_json:
        clips = [asdict(cost) for cost in costs]
        totals = [
            {
                **asdict(setting),
                **asdict(cost),
                "gflops": cost.exact,
                "gflops_per_clip": cost.per_clip,
                "gflops_paper_rounded": cost.paper_rounded,
            }
            for setting, cost in videos
        ]
        click.echo(json.dumps({"clips": clips, "videos": totals}))
        return
    if costs:
        click.echo(f"{'a clip of':<20}{'frames':>8}{'size':>6}{'GFLOPs':>10}  map (l, h, w, c)")
        for clip in costs:
            click.echo(
                f"{clip.model:<20}{clip.clip_frames:>8}{clip.size:>6}{clip.gflops:>10.2f}  {clip.map_shape}"
            )
    for setting, cost in videos:
        title = next((f"{name}: " for name, preset in PRESETS.items() if preset == setting), "")
        click.echo(
            f"{title}{setting.pattern}, {counted(setting.clips, 'clip')} of "
            f"{counted(setting.clip_frames, 'frame')}, {setting.aggregator}"
        )
        click.echo(f"  expensive  {cost.n_expensive:>3} × {cost.expensive_gflops:8.3f}  {setting.expensive}")
        click.echo(f"  cheap      {cost.n_cheap:>3} × {cost.cheap_gflops:8.3f}  {setting.cheap}")
        click.echo(f"  steps      {cost.clips - 1:>3} × {cost.step_gflops:8.3f}  {setting.aggregator}")
        if cost.projections_gflops:
            click.echo(f"  projections {cost.projections_gflops:>13.3f}  the models' maps differ in shape")
        click.echo(
            f"  a video    {cost.exact:.2f} GFLOPs ({cost.per_clip:.2f} a clip); "
            f"the paper's rounding {cost.paper_rounded:.1f}"
        )


def _print_table(cells: list[PaperCell], table: int, as_json: bool) -> None:
    from .tables import mismatches

    if as_json:
        rows = [{**asdict(cell), "matches": cell.matches} for cell in cells]
        click.echo(json.dumps({"table": table, "cells": rows}))
        return
    unit = "GFLOPs of a clip" if cells[0].printed.per_clip else "GFLOPs of a video"
    click.echo(f"{f'Table {table}, {unit}':<36}{'exact':>10}{'rounded':>10}{'paper':>10}{'top-1':>8}")
    for cell in cells:
        printed, mark = cell.printed, "" if cell.matches else "   ≠"
        places = printed.decimals
        figures = f"{cell.exact:>10.2f}{cell.paper_rounded:>10.{places}f}{printed.gflops:>10.{places}f}"
        click.echo(f"{printed.label:<36}{figures}{printed.top1:>8}{mark}")
    different = mismatches(cells)
    click.echo(
        f"{len(cells) - len(different)} of {len(cells)} as printed; rounded = exact, "
        "rounded as the paper does."
    )
    for cell in different:
        printed = cell.printed
        click.echo(
            f"mismatch: {printed.label}: the paper prints {printed.gflops:.{printed.decimals}f}, "
            f"rounded {cell.paper_rounded:.{printed.decimals}f}, exact {cell.exact:.2f}"
        )
