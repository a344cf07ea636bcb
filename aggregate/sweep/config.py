"""The options of a sweep: which cells, and how each is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...errors import UsageError
from ...runtime.dask_cluster import cluster_options
from ...terminal.outputs import output_folder
from ...terminal.settings import check, declare, documented, like, setting
from ..config import TrainConfig


@documented
@dataclass(frozen=True, kw_only=True)
class Grid:
    """Which cells to train. None is settled from the contents of the store."""

    aggregators: tuple[str, ...] | None = setting(
        None, help="As --aggregator of train-agg.", unset="the paper's five", metavar="A,…", listed=True
    )
    patterns: tuple[str, ...] | None = setting(
        None, help="", unset="all-E,1:1,1:3,1:7,1:15,1:31, those that can be", metavar="E:C,…", listed=True
    )
    clips: tuple[int, ...] | None = setting(
        None, help="Clips a video.", unset="all of the store's", metavar="N,…", listed=True, least=1
    )
    clip_frames: int | None = like(
        TrainConfig,
        "clip_frames",
        unset="each of the store's",
        detail="By default table 3 and figure 3 take the store's shortest, table 6 the longest.",
    )
    expensive: str | None = like(TrainConfig, "expensive")
    cheap: str | None = like(TrainConfig, "cheap")
    seeds: int = setting(3, help="Seeds a cell, from 0 on.", least=1)
    table: int | None = setting(
        None,
        help="A table of the paper as the grid.",
        detail="In place of aggregators, patterns and clips.",
        choices=(2, 3, 4, 6),
    )
    figure: int | None = setting(
        None, help="A figure of the paper as the grid.", detail="In place of a table.", choices=(3,)
    )

    def __post_init__(self) -> None:
        check(self)
        preset = self.table is not None or self.figure is not None
        if self.table is not None and self.figure is not None:
            raise UsageError(
                "--table and --figure are two grids; name one, and run the other into the same --out"
            )
        if preset and (self.aggregators or self.patterns or self.clips):
            raise UsageError(
                "a table or figure of the paper settles aggregators, patterns and clips; leave those out"
            )


@documented
@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """What `faster sweep` takes."""

    training: TrainConfig = field(
        metadata=declare(
            help=(
                "How each cell is trained, and the store, split and device; "
                "what the grid settles is left out."
            ),
            python=True,
        )
    )
    grid: Grid = field(metadata=declare(help="Which cells.", python=True))
    out: str | Path | None = setting(
        None,
        help="The sweep's folder; more grids may go in.",
        unset="runs/<store>-sweep",
        metavar="FOLDER",
        callback=output_folder,
    )
    jobs: int = setting(
        1,
        help="Processes that train at once.",
        detail="Each gets its share of the processor's threads.",
        least=1,
    )
    cache_bytes: int | None = setting(
        None,
        help="For pooled vectors.",
        detail="The most that they may take, in bytes, where the option takes GiB.",
        unset="half of free memory",
        flag="--cache-gib",
        scale=2**30,
        metavar="G",
        least=0,
    )
    cluster: str | None = setting(
        None,
        help='"local" for dask workers of this machine, `jobs` of them, or the address of a scheduler.',
        unset="processes of this machine do the work",
        by=cluster_options,
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return Path(self.out or Path("runs") / f"{Path(self.training.store).resolve().stem}-sweep")
