"""The cells of a sweep: the paper's tables and Figure 3, or the user's own grid, fitted to a store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...errors import DataError, UsageError
from ...runtime.file_names import file_stem
from ...store import Store
from ...terminal.suggest import did_you_mean
from ...terminal.text import counted
from ..data.pattern import ALL_EXPENSIVE, ANY, Pattern
from .config import Grid

AGGREGATORS = ("average", "concat", "lstm", "gru", "fast-gru")  # the rows of Table 3
PATTERNS = ("all-E", "1:1", "1:3", "1:7", "1:15", "1:31")  # the rows of Table 4
TABLE_6_PATTERNS = ("1:1", "1:3")
CLIPS = (2, 4, 8, 16, 32)  # the columns of Table 3


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run of a sweep; a model not in use is None."""

    aggregator: str
    pattern: Pattern
    clips: int
    clip_frames: int
    expensive: str | None
    cheap: str | None
    seed: int

    @property
    def name(self) -> str:
        """The name of its run folder, unique in a sweep."""
        models = "-".join(model for model in (self.expensive, self.cheap) if model)
        mixture = f"{self.pattern.in_names}-n{self.clips}-l{self.clip_frames}-{models}"
        return f"{file_stem(self.aggregator)}-{mixture}-s{self.seed}"

    @property
    def batches(self) -> tuple[Any, ...]:
        """What decides the batches: cells with equal values read the same clips and videos in every step."""
        return self.clip_frames, self.expensive, self.cheap, str(self.pattern), self.clips, self.seed

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {**asdict(self), "pattern": str(self.pattern)}


@dataclass(frozen=True, kw_only=True)
class EmptyCell:
    """An impossible cell, and why; the paper leaves it empty too. Its seed is 0; models may be None."""

    cell: Cell
    reason: str


@dataclass(frozen=True, kw_only=True)
class AvailableFeatures:
    """A store's features at one clip length: GFLOPs per clip by model, descending, and M."""

    gflops: Mapping[str, float]
    clips: int


def available_features(store: Store, clip_frames: int | None = None) -> dict[int, AvailableFeatures]:
    """Return a store's features by clip length, shortest first. Raises DataError if there are none."""
    found = {}
    for length in sorted({frames for _, frames in store.models}):
        features = [store.features(name, frames) for name, frames in store.models if frames == length]
        if clip_frames in (None, length):
            features.sort(key=lambda f: -f.gflops_per_clip)
            found[length] = AvailableFeatures(
                gflops={f.model: f.gflops_per_clip for f in features}, clips=min(f.clips for f in features)
            )
    if not found:
        asked = "" if clip_frames is None else f" of {counted(clip_frames, 'frame')} a clip"
        raise DataError(
            f"{store.path} holds no maps{asked}; make them: faster extract --store {store.path} --model …"
        )
    return found


def expand(grid: Grid, held: Mapping[int, AvailableFeatures]) -> tuple[list[Cell], list[EmptyCell]]:
    """Return the cells of a grid, and its impossible cells, each once, in the grid's order, seeds innermost.

    Raises UsageError for an invalid pattern, and DataError if the store does not have a named model.
    """
    if grid.table == 3 or grid.figure == 3:
        held = {min(held): held[min(held)]}
    elif grid.table == 6:
        held = {max(held): held[max(held)]}
    for name in (grid.expensive, grid.cheap):
        missing = [length for length, available in held.items() if name and name not in available.gflops]
        if missing:
            known = held[missing[0]].gflops
            hint = did_you_mean(str(name), known)
            raise DataError(
                f"the store has no maps of {name} at {counted(missing[0], 'frame')}; "
                f"it has {', '.join(known)}{hint}"
            )
    cells: dict[Cell, None] = {}
    empty: dict[Cell, EmptyCell] = {}
    for cell in _asked(grid, held):
        reason = _cannot_be(cell, held[cell.clip_frames])
        if reason:
            empty[cell] = EmptyCell(cell=cell, reason=reason)
        else:
            cells |= {replace(cell, seed=seed): None for seed in range(grid.seeds)}
    return list(cells), list(empty.values())


def _asked(grid: Grid, held: Mapping[int, AvailableFeatures]) -> Iterator[Cell]:
    """Yield the cells that the grid names, possible or not, with seed 0."""
    one_length = next(iter(held))  # for grids of one length
    if grid.table == 2:
        for length, available in held.items():
            for model in available.gflops:
                if model in (grid.expensive, grid.cheap) or not (grid.expensive or grid.cheap):
                    yield Cell(
                        aggregator="average",
                        pattern=ALL_EXPENSIVE,
                        clips=available.clips,
                        clip_frames=length,
                        expensive=model,
                        cheap=None,
                        seed=0,
                    )
    elif grid.table == 3:
        for aggregator in AGGREGATORS:
            for clips in CLIPS:
                yield _cell(grid, held, one_length, aggregator, f"1:{clips - 1}", clips)
    elif grid.figure == 3:
        for aggregator, pattern in (("average", "all-E"), ("average", "all-C"), ("fast-gru", "")):
            for clips in CLIPS:
                yield _cell(grid, held, one_length, aggregator, pattern or f"1:{clips - 1}", clips)
    elif grid.table == 6:
        models = list(held[one_length].gflops)
        cheap = grid.cheap or models[-1]
        for expensive in [grid.expensive] if grid.expensive else [m for m in models if m != cheap] or models:
            named = replace(grid, expensive=expensive, cheap=cheap)
            yield _cell(named, held, one_length, "average", "all-E", held[one_length].clips)
            for pattern in TABLE_6_PATTERNS:
                yield _cell(named, held, one_length, "fast-gru", pattern, held[one_length].clips)
    else:
        aggregators = ("fast-gru",) if grid.table == 4 else grid.aggregators or AGGREGATORS
        for length, available in held.items():
            for aggregator in aggregators:
                for clips in grid.clips or (available.clips,):
                    for pattern in grid.patterns or PATTERNS:
                        yield _cell(grid, held, length, aggregator, pattern, clips)


def _cell(
    grid: Grid, held: Mapping[int, AvailableFeatures], length: int, aggregator: str, pattern: str, clips: int
) -> Cell:
    """Return the cell with the models that its pattern uses; of two, the more expensive and the cheaper."""
    parsed = Pattern.parse(pattern, ANY)
    n_expensive, n_cheap = parsed.counts(clips)
    models = list(held[length].gflops)
    expensive = grid.expensive or _only(models, 0, grid.cheap, "expensive")
    cheap = grid.cheap or _only(models, -1, expensive, "cheap")
    return Cell(
        aggregator=aggregator,
        pattern=parsed,
        clips=clips,
        clip_frames=length,
        expensive=expensive if n_expensive else None,
        cheap=cheap if n_cheap else None,
        seed=0,
    )


def _only(models: Sequence[str], place: int, other: str | None, role: str) -> str:
    """Return the most expensive (0) or cheapest (−1) model other than `other`, if it is clear which."""
    left = [model for model in models if model != other] or list(models)
    if len(models) > 2 and len(left) > 1:
        raise UsageError(
            f"the store has {counted(len(models), 'model')}, {', '.join(models)}; name one with --{role}"
        )
    return left[place]


def _cannot_be(cell: Cell, held: AvailableFeatures) -> str:
    """Return why a cell is impossible; "" if it is possible."""
    pattern = cell.pattern
    group = pattern.expensive + pattern.cheap
    if cell.clips > held.clips:
        return f"the store holds {counted(held.clips, 'clip')} a video, not {cell.clips}"
    if group > cell.clips:
        return f"{pattern} needs {counted(group, 'clip')}, there are {cell.clips}"
    if pattern.expensive and pattern.cheap and cell.expensive == cell.cheap:
        return f"{pattern} needs two models, the store has {cell.expensive}"
    return ""
