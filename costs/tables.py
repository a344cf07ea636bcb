"""Costs of clips, of videos and of the paper's tables, in GFLOPs as `runtime.flop_counter` counts them.

The costs of the paper's networks come from their plans (`extract.backbones.networks.plans`). They are the
same numbers, without torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from ..aggregate.report.paper import TABLES, Printed, Setting
from ..errors import UsageError
from ..runtime.flop_counter import MapShape, gflops


@dataclass(frozen=True, kw_only=True)
class BackboneCost:
    """The cost of one clip in a backbone, up to its res5 map."""

    model: str
    clip_frames: int
    size: int
    gflops: float
    map_shape: MapShape
    parameters: int
    """Without a classifier."""


def usual_clips(name: str) -> tuple[int, ...]:
    """Return the clip lengths to show a cost for: the paper's, or the only one that the backbone takes."""
    from ..extract.backbones import on_meta, plan_of

    own = None if plan_of(name) is not None else on_meta(name).clip_frames
    return (8, 16, 32) if own is None else (own,)


@lru_cache(maxsize=256)
def backbone_cost(name: str, clip_frames: int, size: int | None = None) -> BackboneCost:
    """Return the cost of one clip of `clip_frames` frames of size×size pixels.

    The default size is the one that the network was made for, else 224.
    Raises UsageError for an unknown name, and for clips that the network does not take.
    """
    from ..extract.backbones import plan_of

    if (plan := plan_of(name)) is None:
        return traced_cost(name, clip_frames, size)
    size = size or 224
    cost = plan.cost(clip_frames, size)
    return BackboneCost(
        model=name,
        clip_frames=clip_frames,
        size=size,
        gflops=cost.multiply_adds / 1e9,
        map_shape=cost.map_shape,
        parameters=cost.parameters,
    )


def traced_cost(name: str, clip_frames: int, size: int | None = None) -> BackboneCost:
    """Return `backbone_cost` counted in any network itself; slower, because it needs torch."""
    import torch

    from ..extract.backbones import on_meta

    backbone = on_meta(name).eval()
    size = size or backbone.size or 224
    backbone.require_takes(clip_frames, size)
    clip = torch.empty(1, 3, clip_frames, size, size, device="meta")
    with torch.no_grad():
        _, l, h, w, c = backbone.features(clip).shape  # noqa: E741 - the paper's letter
    return BackboneCost(
        model=name,
        clip_frames=clip_frames,
        size=size,
        gflops=gflops(backbone.features, clip),
        map_shape=(l, h, w, c),
        parameters=sum(p.numel() for p in backbone.parameters()),
    )


def backbone_gflops(name: str, clip_frames: int, size: int | None = None) -> float:
    """Return the GFLOPs of one clip of `clip_frames` frames of size×size pixels (Table 1, Table 2)."""
    return backbone_cost(name, clip_frames, size).gflops


def aggregator_gflops_per_step(map_shape: MapShape) -> float:
    """Return the GFLOPs of one FAST-GRU step on maps (l, h, w, c): 3.5·c² multiply-adds per position.

    Six 1×1×1 convolutions between c and c/4 (Eq. 4, r = 4), and two of c×c for the candidate. Eq. 3 prints
    one V for both, but only two fit the costs that the paper prints.
    """
    l, h, w, c = map_shape  # noqa: E741 - the paper's letter
    return 3.5 * c * c * l * h * w / 1e9


@dataclass(frozen=True, kw_only=True)
class PatternCost:
    """The cost of one video under a pattern: nE·E + nC·C + (N−1)·step + projections, all in GFLOPs.

    Raises UsageError if there is no clip.
    """

    expensive_gflops: float
    cheap_gflops: float
    step_gflops: float = 0.0
    n_expensive: int
    n_cheap: int
    projections_gflops: float = 0.0
    """Of all clips whose maps are projected, if the models' maps differ in their channels."""

    def __post_init__(self) -> None:
        if min(self.n_expensive, self.n_cheap) < 0 or self.clips < 1:
            raise UsageError(
                f"{self.n_expensive} expensive and {self.n_cheap} cheap clips; "
                "a video needs at least one clip"
            )

    @property
    def clips(self) -> int:
        """N."""
        return self.n_expensive + self.n_cheap

    @property
    def exact(self) -> float:
        """GFLOPs of the video."""
        backbones = self.n_expensive * self.expensive_gflops + self.n_cheap * self.cheap_gflops
        return backbones + (self.clips - 1) * self.step_gflops + self.projections_gflops

    @property
    def per_clip(self) -> float:
        """GFLOPs of the video divided by N."""
        return self.exact / self.clips

    @property
    def paper_rounded(self) -> float:
        """GFLOPs of the video as the paper rounds them.

        With an aggregator: the mean per clip to 0.1, then times N (Table 4). With averaged scores (a step
        costs nothing): the sum to 0.1 (Tables 5 and 6).
        """
        if self.step_gflops == 0:
            return round(self.exact, 1)
        return round(round(self.per_clip, 1) * self.clips, 1)


def setting_cost(setting: Setting) -> PatternCost:
    """Return the cost of a video under a setting: the backbones on their clips, and the aggregator."""
    from ..aggregate.data.pattern import Pattern
    from ..aggregate.models.shapes import adapted_shape, projection_gflops

    n_expensive, n_cheap = Pattern.parse(setting.pattern).counts(setting.clips)
    expensive = backbone_cost(setting.expensive, setting.clip_frames, setting.size)
    cheap = backbone_cost(setting.cheap, setting.clip_frames, setting.size)
    cost = PatternCost(
        expensive_gflops=expensive.gflops,
        cheap_gflops=cheap.gflops,
        n_expensive=n_expensive,
        n_cheap=n_cheap,
    )
    if setting.aggregator != "fast-gru":
        return cost
    clips = {one: n for one, n in ((expensive, n_expensive), (cheap, n_cheap)) if n}
    target = adapted_shape({one.model: one.map_shape for one in clips})
    projections = sum(n * projection_gflops(one.map_shape, target) for one, n in clips.items())
    return replace(cost, step_gflops=aggregator_gflops_per_step(target), projections_gflops=projections)


@dataclass(frozen=True, kw_only=True)
class PaperCell:
    """One recomputed cost of a paper's table: GFLOPs of a video, or of a clip if the table prints that."""

    printed: Printed
    exact: float
    paper_rounded: float

    @property
    def matches(self) -> bool:
        """Whether the paper prints the number that its own rounding gives."""
        return abs(self.paper_rounded - self.printed.gflops) < 1e-6


def table_cells(table: int) -> list[PaperCell]:
    """Return every cost of a paper's table, recomputed. Raises UsageError for a table without costs."""
    if table not in TABLES:
        known = ", ".join(str(number) for number in TABLES)
        raise UsageError(f"table {table} has no costs to recompute; those with costs are {known}")
    return [_cell(printed) for printed in TABLES[table]]


def mismatches(cells: Iterable[PaperCell]) -> list[PaperCell]:
    """Return the cells whose printed number differs from the recomputed and rounded one."""
    return [cell for cell in cells if not cell.matches]


def _cell(printed: Printed) -> PaperCell:
    cost = setting_cost(printed.setting)
    if printed.per_clip:
        rounded = round(cost.per_clip, printed.decimals)
        return PaperCell(printed=printed, exact=cost.per_clip, paper_rounded=rounded)
    return PaperCell(printed=printed, exact=cost.exact, paper_rounded=cost.paper_rounded)


def order_by_cost(models: Iterable[str], clip_frames: int, size: int | None = None) -> list[str]:
    """Return the models, the most expensive clip first."""
    return sorted(models, key=lambda name: backbone_gflops(name, clip_frames, size), reverse=True)
